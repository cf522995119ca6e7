"""Arguments of an operation: parameters and body as one JSON schema, and where each of them goes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from llds.agent_tools.openapi.schemas import Schemas, UnusableOperation

_BY_DEFAULT = {"path": "simple", "header": "simple", "query": "form"}
_STYLES = {"path": {"simple"}, "header": {"simple"}, "query": {"form", "spaceDelimited", "pipeDelimited", "deepObject"}}
_SET_BY_OTHERS = {"accept", "content-type", "authorization"}
"""Headers that the specification wants to be ignored among parameters."""
_OF_A_PLAIN_OBJECT = {"type", "properties", "required", "title", "description", "additionalProperties"}


@dataclass(frozen=True)
class Place:
    """Where an argument of a call goes.

    Attributes:
        where: ``path``, ``query`` or ``header``; ``body`` for the whole of it, ``field`` for one of its properties.
        name: What it is called there.
        style: How lists and objects become text, in OpenAPI's words; ``json`` is JSON.
        explode: Whether each element is written apart.
    """

    where: str
    name: str
    style: str = "simple"
    explode: bool = False


class Arguments:
    """Collects the arguments of one operation.

    Args:
        lookup: What a reference of the document names.

    Attributes:
        places: Where each goes, by its name.
    """

    def __init__(self, lookup: Callable[[str], Any]) -> None:
        self.places: dict[str, Place] = {}
        self._schemas = Schemas(lookup)
        self._properties: dict[str, Any] = {}
        self._required: list[str] = []

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of all.

        Raises:
            UnusableOperation: It is none.
        """
        definitions = self._schemas.recursive_ones()
        schema: dict[str, Any] = {"type": "object", "properties": self._properties}
        schema |= {"required": self._required} if self._required else {}
        schema |= {"$defs": definitions} if definitions else {}
        try:
            Draft202012Validator.check_schema(schema, Draft202012Validator.FORMAT_CHECKER)
        except SchemaError as error:
            where = ".".join(str(part) for part in error.absolute_path)
            raise UnusableOperation(f"the schema of its arguments is wrong at `{where}`: {error.message}") from error
        return schema

    def add_parameter(self, parameter: Mapping[str, Any]) -> None:
        """Take in one of path, query or header; a cookie that is optional is left out.

        Raises:
            UnusableOperation: It cannot be sent.
        """
        name, where, required = parameter["name"], parameter["in"], bool(parameter.get("required"))
        if (where == "header" and name.lower() in _SET_BY_OTHERS) or (where == "cookie" and not required):
            return
        if where not in _STYLES:
            raise UnusableOperation(f"its parameter {name!r} goes into the {where}, which is not supported")
        style, schema = parameter.get("style", _BY_DEFAULT[where]), parameter.get("schema", {})
        if style not in _STYLES[where]:
            raise UnusableOperation(f"its parameter {name!r} has the style {style!r}, which is not supported")
        if content := parameter.get("content"):
            schema, style = _json_of(content, f"its parameter {name!r}").get("schema", {}), "json"
        explode = bool(parameter.get("explode", style == "form"))
        self._add(name, self._described(parameter, schema), required, Place(where, name, style, explode))

    def add_body(self, body: Mapping[str, Any]) -> None:
        """Take in the body: the properties of a plain object one by one, anything else as one argument.

        Raises:
            UnusableOperation: It is no JSON.
        """
        if not body.get("content"):
            return
        schema = self._described(body, _json_of(body["content"], "its body").get("schema", {}))
        needed, required = schema.get("required", ()), bool(body.get("required"))
        fields = _fields(schema) if required or not needed else {}
        if not fields or fields.keys() & self.places.keys():
            self._add("body", schema, required, Place("body", ""))
            return
        for name, one in fields.items():
            self._add(name, one, name in needed, Place("field", name))

    def _described(self, owner: Mapping[str, Any], schema: Any) -> dict[str, Any]:
        """A schema with the description that its owner has."""
        found = self._schemas.converted(schema)
        said = {"description": owner["description"]} if owner.get("description") else {}
        return found | said if isinstance(found, dict) else said

    def _add(self, name: str, schema: Any, required: bool, place: Place) -> None:
        name = name if name not in self.places else f"{name}_{place.where}"
        if name in self.places:
            raise UnusableOperation(f"it has several arguments {name!r}")
        self.places[name], self._properties[name] = place, schema
        if required:
            self._required.append(name)


def _fields(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Properties of a schema that says nothing but which there are; none for any other."""
    fields: Mapping[str, Any] = schema.get("properties", {})
    is_plain = schema.get("type", "object") == "object" and not schema.get("additionalProperties")
    has_all = set(schema.get("required", ())) <= fields.keys()
    return fields if is_plain and has_all and schema.keys() <= _OF_A_PLAIN_OBJECT else {}


def _json_of(content: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """What is said of the media type that is JSON."""
    for media, found in content.items():
        essence = media.partition(";")[0].strip().lower()
        if essence in {"application/json", "*/*", "application/*"} or essence.endswith("+json"):
            return found or {}
    raise UnusableOperation(f"{what} is {' or '.join(content)}, and only JSON is supported")
