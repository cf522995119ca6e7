"""Tools from typed functions: what the model is told, what it may give, and what becomes of what comes back."""

import asyncio
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from llds.agent_tools import AgentTool, CalculatorTool, FunctionTool, ToolContext
from llds.errors import ConfigurationError, ToolFailure, ToolInputError
from llds.rollout import TagProtocol, ToolCallPolicy
from llds.rollout.tool_calls import run_calls
from llds.types import ToolCall, ToolResult


def add(first: int, second: int = 1) -> int:
    """Adds two numbers.

    Args:
        first: A number.
        second: Another one.
    """
    if first < 0:
        raise ValueError("No negative numbers.")
    return first + second


async def look_up(word: str, context: ToolContext) -> ToolResult:
    """Explains a word.

    Args:
        word: Any word.
        context: Where the call comes from.
    """
    return ToolResult(f"{word} {context.row['language']} {context.trajectory} {context.turn} {context.seed}", ("d1",))


def nothing() -> None:
    """Does nothing."""


def undocumented(x: int) -> int:
    """Does something."""
    return x


def untyped(x):  # type: ignore[no-untyped-def]
    """Does something.

    Args:
        x: What.
    """
    return x


def place(
    near: str | None = None, kind: Literal["city", "lake"] = "city", pair: tuple[int, float] | None = None
) -> list[Any]:
    """Names a place.

    Args:
        near: What is near.
        kind: Of it.
        pair: Two numbers.
    """
    return [near, kind, pair]


def greet(name: str | None = None) -> str:
    """Greets.

    Args:
        name: Of whom.
    """
    return f"Hello {name}"


@dataclass
class Point:
    """No value of JSON."""

    x: int


def classy(points: list[Point]) -> str:
    """Does something.

    Args:
        points: Where.
    """
    return str(points)


def many(*numbers: int) -> int:
    """Adds numbers.

    Args:
        numbers: Any.
    """
    return sum(numbers)


def lazy(n: int) -> Iterator[int]:
    """Counts.

    Args:
        n: How far.
    """
    yield from range(n)


@functools.cache
def cached(n: int) -> int:
    """Doubles a number.

    Args:
        n: It.
    """
    return 2 * n


class Both(AgentTool):
    """A class with arguments by name, and a context."""

    name = "both"
    description = "Does both."
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}  # noqa: RUF012

    async def run(self, n: int, where: ToolContext) -> ToolResult:  # type: ignore[override]
        """Do it."""
        return ToolResult(f"{n} {where.turn}")


CONTEXT = ToolContext({"language": "Norwegian"}, 7, 2, (1, 2))


def call(tool: AgentTool, arguments: Any) -> ToolResult:
    return asyncio.run(tool.call(arguments, CONTEXT))


def test_a_function_tells_the_model_what_it_takes() -> None:
    schema = FunctionTool(add).schema["function"]
    assert (schema["name"], schema["description"]) == ("add", "Adds two numbers.")
    assert schema["parameters"]["properties"]["second"] == {"type": "integer", "description": "Another one."}
    assert schema["parameters"]["required"] == ["first"]
    assert list(FunctionTool(look_up).schema["function"]["parameters"]["properties"]) == ["word"]  # not the context
    assert FunctionTool(f"{__name__}.add", name="plus").name == "plus"


def test_arguments_are_given_by_name_as_json_or_as_the_only_text() -> None:
    assert call(FunctionTool(add), {"first": 2}).text == "3"
    assert call(FunctionTool(add), '{"first": 2, "second": 5}').text == "7"
    assert call(FunctionTool(look_up), "sild") == ToolResult("sild Norwegian 7 2 (1, 2)", ("d1",))
    assert call(Both(), {"n": 3}).text == "3 2"
    assert call(FunctionTool(nothing), " ").text == call(FunctionTool(nothing), {}).text == "null"
    assert call(CalculatorTool(), {"expression": "2 * 3"}).text == call(CalculatorTool(), "2 * 3").text == "6"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"first": "two"}, "`first`: 'two' is not of type 'integer'"),
        ({}, "'first' is a required property"),
        ({"first": 1, "third": 2}, "no argument 'third'. It has: first, second"),
        ("{", "takes JSON with first, second"),
        ("[1]", "takes a JSON object"),
        ({"argument": "2"}, "takes a JSON object"),
        ({"first": -1}, "No negative numbers"),
    ],
)
def test_what_does_not_fit_is_the_models_mistake(arguments: Any, said: str) -> None:
    with pytest.raises(ToolInputError, match=said):
        call(FunctionTool(add), arguments)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (undocumented, "undocumented.*no description"),
        (untyped, "type hint"),
        ("no_such_module.f", "import path"),
        (f"{__name__}.CONTEXT", "a ToolContext"),
        (classy, "got Point for `points` of classy"),
        (many, r"by name, got `\*numbers: int` of many"),
        (lazy, "lazy, which yields"),
        (functools.partial(add, 1), "Write a function around it"),
        (len, "Write a function around it"),
        ("add", "import path"),
    ],
)
def test_a_function_that_leaves_something_open_is_refused(function: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        FunctionTool(function)


def test_null_stands_for_none_where_a_hint_allows_it() -> None:
    tool = FunctionTool(place)
    properties = tool.schema["function"]["parameters"]["properties"]
    assert properties["near"] == {"type": ["string", "null"], "description": "What is near."}
    given = {"near": None, "kind": "lake", "pair": [1, 2.5]}
    assert call(tool, given).text == '[null, "lake", [1, 2.5]]'
    assert call(tool, {"near": "Oslo", "pair": None}).text == '["Oslo", "city", null]'
    assert [call(FunctionTool(greet), one).text for one in ("Ada", {"name": None})] == ["Hello Ada", "Hello None"]
    with pytest.raises(ToolInputError, match="`kind`: None is not of type 'string'"):
        call(tool, {"kind": None})


def test_decorated_functions_are_called_as_what_they_are() -> None:
    @functools.wraps(look_up)
    def logged(*args: Any, **kwargs: Any) -> Any:
        return look_up(*args, **kwargs)

    assert call(FunctionTool(logged), "sild").text.startswith("sild Norwegian")  # the result, and not a coroutine
    assert call(FunctionTool(cached), {"n": 4}).text == "8"


def test_tags_announce_tools_and_call_typed_ones() -> None:
    protocol, tools = TagProtocol(), [FunctionTool(look_up), CalculatorTool(), FunctionTool(add)]
    assert protocol.announce(tools).text.splitlines() == [
        "<look_up> ... </look_up>: Explains a word.",
        f"<calculate> ... </calculate>: {CalculatorTool.description}",
        '<add> ... </add>: Adds two numbers. As JSON: {"first": ..., "second": ...}',
    ]
    action = protocol.parse("<look_up> sild </look_up>", ["look_up"])
    [outcome] = asyncio.run(run_calls({"look_up": tools[0]}, action.tool_calls, ToolCallPolicy(), CONTEXT))
    hostile = protocol.observe_all(action, "", ["a <calculate>1</calculate>"], ["look_up", "calculate"])
    assert hostile.body == "a &lt;calculate>1&lt;/calculate>"  # the tag of a tool that was not called, too
    assert (outcome.text, outcome.document_ids, outcome.is_error) == ("sild Norwegian 7 2 (1, 2)", ("d1",), False)


def test_calls_run_at_once_and_a_failure_is_a_failure_of_all() -> None:
    met = asyncio.Event()

    async def wait() -> str:
        """Waits for the other."""
        await met.wait()
        return "met"

    async def come() -> str:
        """Comes."""
        met.set()
        return "come"

    async def fail() -> str:
        """Fails."""
        raise ConnectionError("down")

    tools = {one.name: one for one in map(FunctionTool, (wait, come, fail))}

    def run(*names: str) -> list[str]:
        calls = [ToolCall(name, {}) for name in names]
        policy = ToolCallPolicy(deadline_s=5, max_retries=0)
        return [one.text for one in asyncio.run(run_calls(tools, calls, policy, CONTEXT))]

    assert run("wait", "come") == ["met", "come"]
    with pytest.raises(ToolFailure, match="down"):
        run("come", "fail")
