"""A tool from a plain Python function: its type hints and its docstring are what the model is told.

Left out on purpose: state (see `llds.agent_tools.environment`), and any protection from what the function does.
"""

import asyncio
import functools
import importlib
import inspect
import json
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from transformers.utils.chat_template_utils import (
    DocstringParsingException,
    TypeHintParsingException,
    get_json_schema,
)

from llds.agent_tools.base import AgentTool, ToolContext, checked_tool_name, context_parameter
from llds.agent_tools.openapi.schemas import Schemas
from llds.errors import ConfigurationError, ToolInputError
from llds.files.rows import shorten
from llds.types import ToolResult

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_OF_JSON = {int, float, str, bool, type(None), list, tuple, dict, Any}


class FunctionTool(AgentTool):
    """Calls a function, plain or ``async``, with the arguments that the model gives.

    The function needs type hints and a docstring in Google's style with a line for each argument. A hint is of what
    JSON can say: numbers, texts, bool, None, list, tuple, dict, Literal, unions of them, and Any. What it returns
    becomes the observation: a text as it is, a `ToolResult` likewise, anything else as JSON. `ToolInputError` and
    `ValueError` are the model's mistake, whose words it reads; `ToolFailure` and `OSError` are tried again; anything
    else is a bug. A plain function runs in a thread, so it may block.

    Args:
        function: The function, or its import path, such as ``my_tools.population``.
        name: What the model calls it by; None is the function's own name.

    Raises:
        ConfigurationError: It cannot be imported, does not say of each argument what it is, or cannot be given
            arguments by name.
    """

    def __init__(self, function: str | Callable[..., Any], name: str | None = None) -> None:
        self.function = imported_function(function) if isinstance(function, str) else function
        described = function_schema(self.function)
        self.name = checked_tool_name(name or described["name"], "name")
        self.description = described["description"]
        self.parameters = described["parameters"]

    def describe(self) -> dict[str, Any]:
        """Class, name and function."""
        return super().describe() | {"function": f"{self.function.__module__}.{self.function.__qualname__}"}

    async def call(self, arguments: Any, context: ToolContext) -> ToolResult:
        """Check the arguments, and call the function."""
        asked = context_parameter(self.function)
        return await self.run(**self._checked(arguments), **({asked: context} if asked else {}))

    async def run(self, **arguments: Any) -> ToolResult:
        """Call the function with these arguments."""
        return await run_function(self.function, arguments)


async def run_function(function: Callable[..., Any], arguments: dict[str, Any]) -> ToolResult:
    """Call a function; what it returns as a result, what it refuses as the model's mistake.

    Args:
        function: Plain or ``async``.
        arguments: By name.

    Raises:
        ToolInputError: It raised a `ValueError`.
    """
    try:
        if inspect.iscoroutinefunction(function):
            value = await function(**arguments)
        else:
            value = await asyncio.to_thread(functools.partial(function, **arguments))
            if inspect.isawaitable(value):  # of an async function behind a plain decorator
                value = await value
    except ValueError as error:
        raise ToolInputError(str(error)) from error
    if isinstance(value, ToolResult):
        return value
    return ToolResult(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def function_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Name, description and parameters of a function, as JSON schema.

    Raises:
        ConfigurationError: If type hints or docstring leave something open.
    """
    _check_kind(function)
    shown = _without(function, context_parameter(function))
    try:
        found: dict[str, Any] = get_json_schema(shown)["function"]
    except (DocstringParsingException, TypeHintParsingException, NameError) as error:
        raise ConfigurationError(
            f"Expected the function of a tool to have a type hint and a line under `Args:` for each argument, got "
            f"{function.__qualname__}: {error} Add them."
        ) from error
    if not found["description"]:
        raise ConfigurationError(
            f"Expected the docstring of {function.__qualname__} to begin with what it does, got none. Add it."
        )
    _check_hints(shown)
    # Of None beside another type it says what OpenAPI 3.0 does (`nullable`), which JSON schema does not know.
    return found | {"parameters": Schemas(lambda _: {}).converted(found["parameters"])}


def imported_function(path: str) -> Callable[..., Any]:
    """The function of an import path.

    Raises:
        ConfigurationError: If there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"Expected `function` to be the import path of a function, such as my_module.my_function, got {path!r}: "
            f"{error}. Correct it, or name the folder of your module under `import_from`."
        ) from error
    if not callable(found):
        raise ConfigurationError(f"Expected `function` to be a function, got {path!r}, a {type(found).__name__}.")
    return found


def _check_kind(function: Callable[..., Any]) -> None:
    """Refuse what cannot be called with arguments by name, or returns no result."""
    if not inspect.isroutine(function) or inspect.isbuiltin(function):
        raise ConfigurationError(
            f"Expected a function for a tool, got {shorten(function)}. Write a function around it, with type hints and "
            "a docstring."
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"Expected the function of a tool to return its result, got {function.__qualname__}, which yields. Return "
            "all of it at once."
        )
    parameters = inspect.signature(function).parameters.values()
    if unnamed := [one for one in parameters if one.kind not in _BY_NAME]:
        raise ConfigurationError(
            f"Expected the function of a tool to take its arguments by name, got `{unnamed[0]}` of "
            f"{function.__qualname__}. Give each argument a name."
        )


def _check_hints(function: Callable[..., Any]) -> None:
    """Refuse types that the function would not get: a class is an object of JSON to the model, and stays a dict."""
    for name, hint in get_type_hints(function).items():
        if name != "return" and (foreign := [one for one in _leaves(hint) if one not in _OF_JSON]):
            raise ConfigurationError(
                f"Expected type hints of what JSON can say (int, float, str, bool, None, list, tuple, dict, Literal, "
                f"Any) for a tool, got {foreign[0].__name__} for `{name}` of {function.__qualname__}. Take one of "
                "those, and make the other of it in the function."
            )


def _leaves(hint: Any) -> list[Any]:
    """The classes that a type hint is made of; a typed dictionary is a dictionary."""
    if get_origin(hint) is Literal or is_typeddict(hint):
        return []
    inner = [leaf for one in get_args(hint) for leaf in _leaves(one)]
    return [hint, *inner] if isinstance(hint, type) and not get_args(hint) else inner


def _without(function: Callable[..., Any], parameter: str) -> Callable[..., Any]:
    """A function that looks like another without one of its parameters."""
    if not parameter:
        return function
    signature = inspect.signature(function)
    kept = [one for name, one in signature.parameters.items() if name != parameter]

    def shown() -> None: ...

    shown.__name__, shown.__doc__, shown.__module__ = function.__name__, function.__doc__, function.__module__
    hints = inspect.get_annotations(function, eval_str=True)
    shown.__annotations__ = {name: hint for name, hint in hints.items() if name != parameter}
    shown.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return shown
