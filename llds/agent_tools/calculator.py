"""The calculator: arithmetic for the policy, and the worked example of a tool of one's own.

Reads the expression with Python's parser and walks the tree, never ``eval``. Covered: numbers, + - * / // % **, signs
and parentheses, with bounds on length, depth and size, so that no expression takes noticeable time or memory. Not
covered: functions, names, units, comparisons.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable

from llds.agent_tools.base import AgentTool, checked_tool_name
from llds.errors import ToolInputError
from llds.types import ToolResult

Number = int | float

_MAX_CHARS = 200
_MAX_DEPTH = 40
_MAX_EXPONENT = 1000
_MAX_DIGITS = 60
"""Results and intermediate results stay below 10 to this power."""
_SIGNIFICANT_DIGITS = 12

_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_SIGNS: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_USAGE = "Write numbers, + - * / // % ** and parentheses only, like (12 + 3) * 4."


class CalculatorTool(AgentTool):
    """Computes an arithmetic expression.

    Args:
        name: The tag that the model writes.

    Raises:
        ConfigurationError: The name is no tag.

    Example:
        ``<calculate>(2023 - 1945) / 2</calculate>`` gets ``39``.
    """

    description = "Computes arithmetic. " + _USAGE
    argument_name = "expression"

    def __init__(self, name: str = "calculate") -> None:
        self.name = checked_tool_name(name, "name")

    async def run(self, argument: str) -> ToolResult:
        """Return the value of the expression.

        Raises:
            ToolInputError: It is no arithmetic, or its value is not a number within bounds.
        """
        return ToolResult(format_number(calculate(argument)))


def calculate(expression: str) -> Number:
    """Return the value of an arithmetic expression.

    Raises:
        ToolInputError: With what is wrong and how to write it.
    """
    text = expression.strip()
    if not text:
        raise ToolInputError(f"The expression is empty. {_USAGE}")
    if len(text) > _MAX_CHARS:
        raise ToolInputError(f"The expression has {len(text)} characters, more than {_MAX_CHARS}. Compute it in steps.")
    try:
        return _value(_parse(text), _MAX_DEPTH)
    except ZeroDivisionError:
        raise ToolInputError("The expression divides by zero, which has no value. Correct it.") from None
    except OverflowError:
        raise ToolInputError(_too_large()) from None


def format_number(value: Number) -> str:
    """Return a number as text without the noise of binary fractions: 0.1 + 0.2 is 0.3, 6 / 2 is 3."""
    if isinstance(value, int):
        return str(value)
    if value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return format(value, f".{_SIGNIFICANT_DIGITS}g")


def _parse(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # about the model's text, of no use to the user
            return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # MemoryError: too deeply nested for the parser
        raise ToolInputError(f"Cannot read {text!r} as arithmetic. {_USAGE}") from None


def _value(node: ast.expr, depth: int) -> Number:
    if depth == 0:
        raise ToolInputError("The expression is nested too deeply. Compute it in steps.")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _SIGNS:
            return _SIGNS[type(sign)](_value(operand, depth - 1))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _bounded(_power(_value(left, depth - 1), _value(right, depth - 1)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_value(left, depth - 1), _value(right, depth - 1)))
    raise ToolInputError(_advice(node))


def _power(base: Number, exponent: Number) -> Number:
    if abs(exponent) > _MAX_EXPONENT:
        raise ToolInputError(f"The exponent is larger than {_MAX_EXPONENT}. Choose a smaller one.")
    if exponent > 0 and abs(base) > 1 and exponent * math.log10(abs(base)) > _MAX_DIGITS:
        raise ToolInputError(_too_large())  # before it is computed: it might take long
    if base < 0 and not float(exponent).is_integer():
        raise ToolInputError("A negative number has no fractional power. Correct it.")
    return base**exponent


def _bounded(value: Number) -> Number:
    if not math.isfinite(value) or abs(value) > 10**_MAX_DIGITS:
        raise ToolInputError(_too_large())
    return value


def _too_large() -> str:
    return f"The value is too large: more than {_MAX_DIGITS} digits. Choose smaller numbers."


def _advice(node: ast.expr) -> str:
    match node:
        case ast.BinOp(op=ast.BitXor()):
            return "Write ** for powers, like 2**10, not ^."
        case ast.Tuple():
            return "Write numbers without commas, like 1000000, and one expression at a time."
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)):
            return f"The calculator does not know {name!r}. {_USAGE}"
    return f"This is not arithmetic that the calculator knows. {_USAGE}"
