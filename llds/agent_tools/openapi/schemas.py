"""Schemas of an OpenAPI document as JSON schemas that need nothing outside themselves."""

import re
from collections.abc import Callable, Mapping
from typing import Any

_SCHEMA = {"items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else",
           "unevaluatedItems", "unevaluatedProperties"}  # fmt: skip
_SCHEMAS = {"allOf", "anyOf", "oneOf", "prefixItems"}
_NAMED_SCHEMAS = {"properties", "patternProperties", "dependentSchemas"}
_LEFT_OUT = {"example", "examples", "xml", "externalDocs", "discriminator", "nullable", "readOnly", "writeOnly",
             "$schema", "$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$comment", "$defs",
             "definitions"}  # fmt: skip
"""Keywords that bear on no argument, and those that are written in another way below."""
_ANNOTATIONS = {"title", "description", "default", "deprecated"}


class UnusableOperation(Exception):  # noqa: N818 (no error where the operation is not wanted)
    """An operation that cannot be a tool, with the reason in words."""


class Schemas:
    """Converts schemas of OpenAPI 3.0 and 3.1.

    What a reference names stands in its place, which every chat template can render; only a schema that holds itself
    is named, under ``$defs``. Properties that only a server writes are left out.

    Args:
        lookup: What a reference names.
    """

    def __init__(self, lookup: Callable[[str], Any]) -> None:
        self._lookup = lookup
        self._recursive: dict[str, str] = {}

    def recursive_ones(self) -> dict[str, Any]:
        """Those that hold themselves, by their names, as far as they were converted."""
        done: dict[str, Any] = {}
        while left := [name for name in self._recursive if name not in done]:
            reference = self._recursive[left[0]]
            done[left[0]] = self.converted(self._lookup(reference), (reference,))
        return done

    def converted(self, schema: Any, within: tuple[str, ...] = ()) -> Any:
        """One schema.

        Args:
            schema: An object, or true or false.
            within: References that led to it.

        Raises:
            UnusableOperation: There is no JSON schema for it.
        """
        if not isinstance(schema, Mapping):
            return schema
        if unknown := {"$dynamicRef", "$recursiveRef"} & schema.keys():
            raise UnusableOperation(f"a schema of its arguments has a `{min(unknown)}`, which is not supported")
        found = {name: self._value(name, value, within) for name, value in schema.items() if _counts(name)}
        found = _with_bounds(_without_missing(schema, found))
        reference = found.pop("$ref", None)
        if reference is not None:
            found = _both(self._named(reference, within), found)
        return _with_null(found) if schema.get("nullable") is True else found

    def _named(self, reference: str, within: tuple[str, ...]) -> dict[str, Any]:
        if reference in within:
            if within[-1] == reference and isinstance(self._lookup(reference).get("$ref"), str):
                raise UnusableOperation(f"its reference {reference!r} leads to itself")
            name = re.sub(r"\W+", "_", reference.removeprefix("#/components/schemas/")).strip("_")
            self._recursive[name] = reference
            return {"$ref": f"#/$defs/{name}"}
        found = self.converted(self._lookup(reference), (*within, reference))
        return found if isinstance(found, dict) else {} if found else {"not": {}}

    def _value(self, name: str, value: Any, within: tuple[str, ...]) -> Any:
        if name in _SCHEMA:
            return self.converted(value, within)
        if name in _SCHEMAS:
            return [self.converted(one, within) for one in value]
        if name in _NAMED_SCHEMAS:
            return {key: self.converted(one, within) for key, one in value.items() if not self._is_read_only(one)}
        return value

    def _is_read_only(self, schema: Any) -> bool:
        both = [schema, self._lookup(schema["$ref"])] if isinstance(schema, Mapping) and "$ref" in schema else [schema]
        return any(isinstance(one, Mapping) and one.get("readOnly") is True for one in both)


def _counts(keyword: str) -> bool:
    return keyword not in _LEFT_OUT and not keyword.startswith("x-")


def _without_missing(schema: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """A schema that requires no property that was left out."""
    gone = set(schema.get("properties", ())) - set(found.get("properties", ()))
    if not gone & set(found.get("required", ())):
        return found
    return found | {"required": [name for name in found["required"] if name not in gone]}


def _with_bounds(found: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.0 says beside a bound whether it is exclusive, JSON schema in its place."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(found.get(exclusive), bool) and found.pop(exclusive) and bound in found:
            found[exclusive] = found.pop(bound)
    return found


def _with_null(found: dict[str, Any]) -> dict[str, Any]:
    """The same or null."""
    if not isinstance(found.get("type"), str):
        return {"anyOf": [found, {"type": "null"}]}
    return found | {"type": [found["type"], "null"]} | ({"enum": [*found["enum"], None]} if "enum" in found else {})


def _both(named: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    """What a reference names, with what stands beside it."""
    if beside.keys() - _ANNOTATIONS:
        return {"allOf": [named, beside]}
    return named | beside
