"""The request that a call of an operation becomes; how arguments are written into it says OpenAPI's "style"."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from llds.agent_tools.openapi.arguments import Place
from llds.agent_tools.openapi.document import Operation

_BETWEEN = {"spaceDelimited": "%20", "pipeDelimited": "%7C"}


@dataclass
class Request:
    """What is sent.

    Attributes:
        path: Path and query, encoded.
        headers: Of the operation.
        body: JSON, encoded; None sends none.
    """

    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


def written(operation: Operation, arguments: Mapping[str, Any]) -> Request:
    """The request of a call.

    Args:
        operation: What is called.
        arguments: By name; they are valid by the schema. Null in path, query or header counts as not given.

    Raises:
        ValueError: An argument cannot be written where it goes, in words for the model.
    """
    request, pairs, fields = Request(operation.path), list[str](), dict[str, Any]()
    body: Any = fields if operation.needs_body else None
    for name, value in arguments.items():
        place = operation.places[name]
        if place.where == "body":
            body = value
        elif place.where == "field":
            fields[place.name] = value
            body = fields
        elif place.where == "path":
            request.path = request.path.replace(f"{{{place.name}}}", _in_path(name, place, value))
        elif value is not None and place.where == "query":
            pairs += in_query(place, value)
        elif value is not None:
            request.headers[place.name] = _in_header(name, place, value)
    request.path += "?" + "&".join(pairs) if pairs else ""
    if body is not None:
        request.body = json.dumps(body).encode()
        request.headers["Content-Type"] = "application/json"
    return request


def in_query(place: Place, value: Any) -> list[str]:
    """The parts of a query that an argument becomes, encoded."""
    if place.style == "json":
        return [f"{_quoted(place.name)}={_quoted(json.dumps(value))}"]
    if isinstance(value, dict) and place.style == "deepObject":
        return [f"{_quoted(f'{place.name}[{key}]')}={_quoted(one)}" for key, one in value.items()]
    if isinstance(value, dict) and place.explode:
        return [f"{_quoted(key)}={_quoted(one)}" for key, one in value.items()]
    elements = _elements(value)
    if place.explode or not elements:
        return [f"{_quoted(place.name)}={_quoted(one)}" for one in elements]
    return [f"{_quoted(place.name)}={_BETWEEN.get(place.style, ',').join(map(_quoted, elements))}"]


def _in_path(name: str, place: Place, value: Any) -> str:
    text = _quoted(json.dumps(value)) if place.style == "json" else ",".join(map(_quoted, _pairs(place, value)))
    if text in {"", ".", ".."}:  # another path, which would be another operation
        raise ValueError(f"`{name}` cannot be {text!r}.")
    return text


def _in_header(name: str, place: Place, value: Any) -> str:
    text = json.dumps(value) if place.style == "json" else ",".join(map(_text, _pairs(place, value)))
    if not (text.isprintable() and text.isascii()):
        raise ValueError(f"`{name}` can have no line breaks and none but ASCII characters.")
    return text


def _pairs(place: Place, value: Any) -> list[Any]:
    """Elements of a value; with `explode` those of an object are pairs."""
    if isinstance(value, dict) and place.explode:
        return [f"{key}={_text(one)}" for key, one in value.items()]
    return _elements(value)


def _elements(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [one for pair in value.items() for one in pair]
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 3.0 is an integer by JSON schema
    return value if isinstance(value, str) else json.dumps(value)


def _quoted(value: Any) -> str:
    return quote(_text(value), safe="")
