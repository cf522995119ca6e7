"""A tool that is an address: arguments out as JSON, text in."""

import json
import os
from typing import Any

import aiohttp
from yarl import URL

from llds.agent_tools.base import AgentTool, checked_tool_name
from llds.errors import ConfigurationError, ToolFailure, ToolInputError
from llds.types import ToolResult

_MISTAKES, _REFUSALS, _BUSY = {400, 404, 409, 422}, {401, 403, 405}, {408, 425, 429}
_MOST_BYTES = 4_000_000
_MOST_CHARS = 500


async def read_text(reply: aiohttp.ClientResponse) -> str:
    """The body of a reply, to its end or to four megabytes; one call of ``read`` gives what has come so far."""
    body = bytearray()
    while len(body) < _MOST_BYTES and (part := await reply.content.read(_MOST_BYTES - len(body))):
        body += part
    return body.decode("utf-8", "replace")


class HTTPTool(AgentTool):
    """Posts the arguments of a call to a URL as JSON; the reply is the observation.

    A status of 400, 404, 409 or 422 is the model's mistake, and it reads the reply; 408, 425, 429 and from 500 on are
    infrastructure, tried again; 401, 403, 405 end the run.

    Args:
        name: What the model calls it by.
        description: For the model: what it does.
        url: Where to.
        parameters: JSON schema of the arguments, as OpenAI's and OpenAPI's: an object with properties.
        result: Names of the fields of a JSON reply that lead to the text, joined by dots; None takes the whole reply.
        token_variable: Name of the environment variable with a bearer token; None sends none.

    Raises:
        ConfigurationError: The schema is none of an object; or, from a call, the server refuses for good.
    """

    def __init__(
        self,
        name: str,
        description: str,
        url: str,
        parameters: dict[str, Any],
        result: str | None = None,
        token_variable: str | None = None,
    ) -> None:
        if parameters.get("type") != "object" or not isinstance(parameters.get("properties"), dict):
            raise ConfigurationError(
                f"Expected `parameters` of the tool {name!r} to be a JSON schema of an object with `properties`, got "
                f"{str(parameters)[:120]}. Correct it."
            )
        self.name = checked_tool_name(name, "name")
        self.description, self.url, self.parameters = description, url, parameters
        self.result, self.token_variable = result, token_variable

    def describe(self) -> dict[str, Any]:
        """Class, name and address."""
        return super().describe() | {"url": self.url}

    async def run(self, **arguments: Any) -> ToolResult:
        """Ask the server.

        Raises:
            ToolInputError: It does not take the arguments.
            ToolFailure: It cannot be reached, is busy, or broken.
            ConfigurationError: It refuses for good.
        """
        headers = {"Authorization": f"Bearer {self.token}"} if self.token_variable else {}
        text = await self.ask("POST", self.url, headers=headers, json=arguments)
        return ToolResult(text if self.result is None else self._field(text))

    async def ask(self, method: str, url: str | URL, **request: Any) -> str:
        """The text of a reply that is no error.

        Args:
            method: Of HTTP.
            url: Where to.
            request: What aiohttp sends with it.

        Raises:
            ToolInputError: The server does not take the arguments.
            ToolFailure: It cannot be reached, is busy, or broken.
            ConfigurationError: It refuses for good.
        """
        try:
            async with aiohttp.ClientSession() as session, session.request(method, url, **request) as reply:
                text = await read_text(reply)
        except aiohttp.ClientError as error:
            raise ToolFailure(f"{self.url} cannot be asked: {error}") from error
        self._check(reply.status, text)
        return text

    @property
    def token(self) -> str:
        """What stands in `token_variable`.

        Raises:
            ConfigurationError: Nothing does.
        """
        token = os.environ.get(self.token_variable or "", "")
        if not token:
            raise ConfigurationError(f"Expected a token for {self.url} in ${self.token_variable}, got none. Set it.")
        return token

    def _check(self, status: int, text: str) -> None:
        if status in _MISTAKES:
            raise ToolInputError(text[:_MOST_CHARS].strip() or f"{self.name} cannot serve this.")
        if status in _REFUSALS:
            raise ConfigurationError(
                f"Expected {self.url} to take calls of the tool {self.name!r}, got status {status}: {text[:120]}. "
                "Correct `url` or the token."
            )
        if status in _BUSY or status >= 500 or not 200 <= status < 300:
            raise ToolFailure(f"{self.url} answered with status {status}")

    def _field(self, text: str) -> str:
        try:
            found: Any = json.loads(text)
            for part in str(self.result).split("."):
                found = found[int(part)] if isinstance(found, list) else found[part]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ToolFailure(f"{self.url} sent no `{self.result}`: {text[:120]!r}") from error
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
