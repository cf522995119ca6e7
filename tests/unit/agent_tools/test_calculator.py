"""The calculator: values, the text they become, and what a hostile or clumsy model may write."""

import asyncio
import time

import pytest

from llds.agent_tools import CalculatorTool
from llds.agent_tools.calculator import calculate
from llds.errors import ConfigurationError, ToolInputError


def run(expression: str) -> str:
    return asyncio.run(CalculatorTool().run(expression)).text


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("(2023 - 1945) / 2", "39"),
        (" 1 + 2 * 3 ", "7"),
        ("7 / 2", "3.5"),
        ("-7 // 2", "-4"),
        ("7 % 3", "1"),
        ("2 ** 10", "1024"),
        ("-2 ** 2", "-4"),
        ("(-2) ** 3", "-8"),
        ("2 ** -1", "0.5"),
        ("2 ** 0.5", "1.41421356237"),
        ("+5 - -3", "8"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3", "0.333333333333"),
        ("1e3 * 2", "2000"),
        ("1_000 * 3", "3000"),
        ("10 ** 20 + 1", "100000000000000000001"),
        ("6 / 3", "2"),
        ("-0.0", "0"),
        ("1e20 * 10", "1e+21"),
        ("(" * 30 + "1" + ")" * 30, "1"),
    ],
)
def test_expressions_have_the_value_and_text_that_a_person_expects(expression, text):
    assert run(expression) == text


@pytest.mark.parametrize(
    ("expression", "advice"),
    [
        ("", "is empty"),
        ("2 +", "Cannot read '2 +' as arithmetic"),
        ("two plus two", "Cannot read"),
        ("2 + 2 =", "Cannot read"),
        ("1\x00", "Cannot read"),
        ("2 ^ 10", "Write ** for powers"),
        ("1,000 + 1", "without commas"),
        ("x + 1", "does not know 'x'"),
        ("sqrt(4)", "does not know 'sqrt'"),
        ("1 if 2 else 3", "not arithmetic that the calculator knows"),
        ("1 < 2", "not arithmetic"),
        ("True + 1", "not arithmetic"),
        ("'a' * 3", "not arithmetic"),
        ("1j", "not arithmetic"),
        ("~1", "not arithmetic"),
        ("1 << 100", "not arithmetic"),
        ("[1] * 9", "not arithmetic"),
        ("1 / 0", "divides by zero"),
        ("1 % 0", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("(-8) ** 0.5", "negative number has no fractional power"),
    ],
)
def test_a_mistake_is_answered_with_how_to_write_it(expression, advice):
    with pytest.raises(ToolInputError) as caught:
        run(expression)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "9**9**9**9",
        "2**1000",
        "(-9)**999",
        "10**60 * 10**60",
        "1e308 * 10",
        "1e999",
        "-1e999",
        "0.1**-1000",
        "2**1001",
        "2**-1001",
        "9" * 100,
        "1e60 * 9 - 1",
        "10.5**999",
        "(10**59)**1000",
        "1" * 201,
        "-" * 150 + "1",
        "+".join("1" * 100),
        "__import__('os').system('true')",
        "().__class__.__bases__[0]",
        "(lambda: 1)()",
        "[x for x in range(10**9)]",
        "exec('1')",
        "1 if 1else 2",
        "a:=1",
        "f'{1}'",
        "\ud800",
    ],
)
def test_hostile_expressions_are_refused_at_once(expression):
    start = time.perf_counter()
    with pytest.raises(ToolInputError):
        calculate(expression)
    assert time.perf_counter() - start < 0.1


def test_the_name_is_the_tag_and_may_not_be_one_of_the_protocols():
    assert CalculatorTool().name == "calculate"
    with pytest.raises(ConfigurationError, match="got 'think'"):
        CalculatorTool(name="think")
