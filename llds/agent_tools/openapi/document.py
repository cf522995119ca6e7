"""What an OpenAPI document says of its operations.

By the OpenAPI Specification 3.0.4 and 3.1.1. Left out on purpose: replies, callbacks, webhooks and links, which a
caller does not need, and references to other files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from llds.agent_tools.openapi.arguments import Arguments, Place
from llds.agent_tools.openapi.schemas import UnusableOperation

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


@dataclass(frozen=True)
class Operation:
    """An operation, in the terms of a tool.

    Attributes:
        description: For the model.
        method: Of HTTP, in capitals.
        path: With its parameters in braces.
        server: URL that the path continues; it may be relative to the document's.
        parameters: JSON schema of all arguments.
        places: Where each goes, by its name.
        needs_body: Whether a body is sent even where no argument goes there.
        credential: Where a token goes, and what stands before it there; None where it goes nowhere.
    """

    description: str
    method: str
    path: str
    server: str
    parameters: dict[str, Any]
    places: Mapping[str, Place]
    needs_body: bool
    credential: tuple[Place, str] | None


class OpenAPIDocument:
    """A document, read.

    Args:
        content: What it holds, as JSON's types.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self._resolver = Registry().with_resource("", DRAFT202012.create_resource(content)).resolver()

    @cached_property
    def listed(self) -> dict[tuple[str, str], str]:
        """Ids of all operations by method and path; one is made of the two where there is none."""
        return {
            (method, path): str(item[method].get("operationId") or f"{method} {path}")
            for path in self._content.get("paths") or {}
            for item in (self._item(path),)
            for method in _METHODS
            if method in item
        }

    def read(self, method: str, path: str, sends_token: bool = False) -> Operation:
        """One operation.

        Args:
            method: Of HTTP.
            path: As the document has it.
            sends_token: Whether there is a token to send; a parameter that is its place is then no argument.

        Raises:
            UnusableOperation: It cannot be a tool.
        """
        item = self._item(path)
        operation, arguments = item[method], Arguments(self.lookup)
        credential = self._credential(operation) if sends_token else None
        taken = (credential[0].where, credential[0].name.lower()) if credential else None
        for parameter in self._parameters(item, operation):
            if (parameter["in"], parameter["name"].lower()) != taken:
                arguments.add_parameter(parameter)
        body = self._resolved(operation.get("requestBody") or {})
        arguments.add_body(body)
        in_path = {place.name for place in arguments.places.values() if place.where == "path"}
        if unknown := set(re.findall(r"{([^{}]+)}", path)) ^ in_path:
            raise UnusableOperation(f"its path and its parameters of the path do not agree about {min(unknown)!r}")
        said = [str(operation[key]).strip() for key in ("summary", "description") if operation.get(key)]
        return Operation(
            description="\n".join(dict.fromkeys(said)) or f"{method.upper()} {path}",
            method=method.upper(),
            path=path,
            server=self._server(item, operation),
            parameters=arguments.schema,
            places=arguments.places,
            needs_body=bool(body.get("required")),
            credential=credential,
        )

    def lookup(self, reference: str) -> Any:
        """What a reference names.

        Raises:
            UnusableOperation: It is not in the document.
        """
        try:
            return self._resolver.lookup(reference).contents
        except (Unresolvable, ValueError) as error:
            raise UnusableOperation(f"its reference {reference!r} leads to nothing in the document") from error

    def _resolved(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an object says, or what the reference that it is leads to."""
        seen = []
        while "$ref" in found:
            if found["$ref"] in seen:
                raise UnusableOperation(f"its reference {found['$ref']!r} leads to itself")
            seen.append(found["$ref"])
            found = self.lookup(found["$ref"])
        return found

    def _item(self, path: str) -> Mapping[str, Any]:
        given = self._content["paths"][path] or {}
        return {**self._resolved(given), **given}

    def _parameters(self, item: Mapping[str, Any], operation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        both = [self._resolved(one) for one in (*item.get("parameters", ()), *operation.get("parameters", ()))]
        return list({(one["in"], one["name"]): one for one in both}.values())  # the operation's own count

    def _server(self, item: Mapping[str, Any], operation: Mapping[str, Any]) -> str:
        given = operation.get("servers") or item.get("servers") or self._content.get("servers") or [{"url": "/"}]
        url = str(given[0]["url"])
        for name, variable in (given[0].get("variables") or {}).items():
            url = url.replace(f"{{{name}}}", str(variable["default"]))
        return url

    def _credential(self, operation: Mapping[str, Any]) -> tuple[Place, str] | None:
        """By the first requirement that one token meets; a bearer token where the document says nothing."""
        required = operation.get("security", self._content.get("security"))
        if required is None:
            return Place("header", "Authorization"), "Bearer "
        known = (self._content.get("components") or {}).get("securitySchemes") or {}
        for names in required:
            scheme = self._resolved(known.get(next(iter(names)), {})) if len(names) == 1 else {}
            if scheme.get("type") == "apiKey" and scheme.get("in") in {"header", "query"}:
                return Place(scheme["in"], scheme["name"]), ""
            if scheme.get("type") in {"oauth2", "openIdConnect"} or str(scheme.get("scheme")).lower() == "bearer":
                return Place("header", "Authorization"), "Bearer "
        if any(required):
            raise UnusableOperation("none of its security requirements is met by one token in a header or the query")
        return None
