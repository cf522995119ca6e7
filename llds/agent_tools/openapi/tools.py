"""Tools from an OpenAPI document: each of its operations is one, with typed arguments."""

import json
import re
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar
from urllib.parse import urljoin

import yaml
from yarl import URL

from llds.agent_tools.base import AgentTool, checked_tool_name
from llds.agent_tools.http import HTTPTool
from llds.agent_tools.openapi.document import OpenAPIDocument, Operation
from llds.agent_tools.openapi.request import in_query, written
from llds.agent_tools.openapi.schemas import UnusableOperation
from llds.errors import ConfigurationError, ToolInputError
from llds.paths import resolve_path, where_looked
from llds.types import ToolResult

try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader

_URL = re.compile(r"https?://", re.IGNORECASE)
_MOST_NAMED = 20


class OpenAPITools(AgentTool):
    """All operations of an OpenAPI document, or some of them; stands in `agent_tools` for them.

    An operation is called by its ``operationId`` in lower-case words (``findPets`` is ``find_pets``), or by method and
    path where it has none. Parameters of path, query and header are arguments, and so are the properties of a JSON
    body; a body that is no plain object is the argument ``body``. What a status of the reply means, `HTTPTool` says.
    Optional cookies are left out. Bodies that are no JSON, cookies that are required, and references out of the
    document are refused: leave such operations out by `only`.

    Args:
        document: A file, JSON or YAML, or the URL of one, of OpenAPI 3.0 or 3.1.
        only: Ids or names of the operations that are wanted; None is all.
        base_url: What the paths continue, in place of the server that the document names first.
        token_variable: Name of the environment variable with a token, which goes where the document's security schemes
            say: as a bearer token, or as a key in a header or in the query; None sends none.
        deadline_s: Longest time to read the document from a URL, in seconds.

    Raises:
        ConfigurationError: When the tools are listed: there is no such document, or an operation that is wanted cannot
            be a tool.
    """

    description = "The operations of a server."

    def __init__(
        self,
        document: str,
        only: list[str] | None = None,
        base_url: str | None = None,
        token_variable: str | None = None,
        deadline_s: float = 30.0,
    ) -> None:
        self.name = document
        self._only, self._base_url = only, base_url
        self._token_variable, self.deadline_s = token_variable, deadline_s

    async def run(self, **_: Any) -> ToolResult:
        """Is no tool itself: see `expand`."""
        raise NotImplementedError

    def expand(self) -> list[AgentTool]:
        """Read the document, and make a tool of each operation that is wanted."""
        document = OpenAPIDocument(_content(self.name, self.deadline_s))
        tools: dict[str, AgentTool] = {}
        refused: list[str] = []
        for (method, path), called in self._wanted(document).items():
            try:
                name = checked_tool_name(_name(called), f"operation {called} of {self.name}")
                if name in tools:
                    raise UnusableOperation(f"another one is called {name!r} too")
                tools[name] = self._tool(name, document.read(method, path, bool(self._token_variable)))
            except (UnusableOperation, LookupError, TypeError, AttributeError) as error:
                refused.append(f"{called}: {_reason(error)}")
        if refused:
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise ConfigurationError(
                f"Expected operations of {self.name} that can be tools, got {refused[0]}{more}. Name those that you "
                f"want under `only`, without {'them' if more else 'it'}; these can be tools: {_some(tools)}."
            )
        return list(tools.values())

    def _wanted(self, document: OpenAPIDocument) -> dict[tuple[str, str], str]:
        """Method and path of the operations that are wanted, with their ids, in the order of `only`."""
        try:
            listed = document.listed
        except (UnusableOperation, LookupError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"Expected the `paths` of {self.name} to be as OpenAPI wants, got this: {_reason(error)}. Correct them."
            ) from error
        found = dict(listed) if self._only is None else {}
        for one in self._only or ():
            fitting = {place: called for place, called in listed.items() if one in (called, _name(called))}
            if not fitting:
                raise ConfigurationError(
                    f"Expected an operation {one!r} in {self.name}, got {_some(listed.values())}. Correct `only`."
                )
            found |= fitting
        if not found:
            raise ConfigurationError(f"Expected operations in {self.name}, got none. Correct `document` or `only`.")
        return found

    def _tool(self, name: str, operation: Operation) -> "OpenAPITool":
        server = self._base_url or operation.server
        if self._base_url is None and _URL.match(self.name):
            server = urljoin(self.name, server)
        if not _URL.match(server):
            raise UnusableOperation(f"its server is {server!r}, which is no http address; set `base_url`")
        return OpenAPITool(name, operation, server.rstrip("/"), self._token_variable)


class OpenAPITool(HTTPTool):
    """One operation.

    Args:
        name: What the model calls it by.
        operation: What the document says of it.
        server: URL that its path continues.
        token_variable: Name of the environment variable with a token.
    """

    def __init__(self, name: str, operation: Operation, server: str, token_variable: str | None) -> None:
        super().__init__(
            name, operation.description, server + operation.path, operation.parameters, None, token_variable
        )
        self._operation, self._server = operation, server

    def describe(self) -> dict[str, Any]:
        """Class, name, method and address."""
        return super().describe() | {"method": self._operation.method}

    async def run(self, /, **arguments: Any) -> ToolResult:
        """Ask the server.

        Raises:
            ToolInputError: It does not take the arguments.
            ToolFailure: It cannot be reached, is busy, or broken.
            ConfigurationError: It refuses for good.
        """
        try:
            request = written(self._operation, arguments)
        except ValueError as error:  # also a text with half a character
            raise ToolInputError(f"{self.name}: {error}") from error
        url, headers = self._server + request.path, request.headers
        if self.token_variable and self._operation.credential:
            place, before = self._operation.credential
            if place.where == "header":
                headers[place.name] = before + self.token
            else:
                url += ("&" if "?" in url else "?") + in_query(place, self.token)[0]
        text = await self.ask(self._operation.method, URL(url, encoded=True), headers=headers, data=request.body)
        return ToolResult(text or "Done; the reply is empty.")


def _name(called: str) -> str:
    """An operation's id in lower-case words."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", called)
    return re.sub(r"\W+|_+", "_", words.lower()).strip("_")


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:_MOST_NAMED]) + (", ..." if len(shown) > _MOST_NAMED else "") or "none"


def _reason(error: Exception) -> str:
    if isinstance(error, UnusableOperation):
        return str(error)
    return f"it is not written as OpenAPI wants ({type(error).__name__}: {error})"


class _Loader(SafeLoader):
    """YAML as OpenAPI wants it: what JSON has, so that neither ``no`` nor a date is anything but a text."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":timestamp", ":bool"))]
        for first, found in SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")


def _content(source: str, deadline_s: float) -> Mapping[str, Any]:
    """What a document holds.

    Raises:
        ConfigurationError: There is none, or it is none of OpenAPI 3.0 or 3.1.
    """
    text = _text(source, deadline_s)
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else yaml.load(text, _Loader)  # noqa: S506 (a safe one)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"Expected JSON or YAML in {source}, got neither: {error}. Correct it.") from error
    version = str((found.get("openapi") or found.get("swagger")) if isinstance(found, dict) else None)
    if not version.startswith(("3.0", "3.1")):
        raise ConfigurationError(
            f"Expected {source} to be an OpenAPI document of version 3.0 or 3.1, got version {version}. Convert it, or "
            "name another `document`."
        )
    return found


def _text(source: str, deadline_s: float) -> str:
    path = resolve_path(source)
    try:
        if _URL.match(source):
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # as calls: without proxies
            with opener.open(source, timeout=deadline_s) as reply:
                return str(reply.read().decode())
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        looked = "" if _URL.match(source) else where_looked(path)
        raise ConfigurationError(
            f"Expected an OpenAPI document at {source}, got {error}. {looked}Correct `document`."
        ) from error
