"""When a rung acts: trigger, patience, cooldown, count, and again when trouble comes again or grows."""

from typing import Any

import pytest

from llds.callbacks.ladder import Record, When
from llds.errors import ConfigurationError
from llds.monitor import Diagnosis, Level


def acts(when: When, levels: str, record: Record | None = None, start: int = 1, **diagnosis: Any) -> list[int]:
    """Iterations at which a rung acts; levels: "." none, "w" warning, "a" alarm."""
    record = record or Record()
    names: dict[str, Level] = {".": "none", "w": "warning", "a": "alarm"}
    found = []
    for iteration, letter in enumerate(levels, start):
        judged = Diagnosis(iteration, level=names[letter], **diagnosis)
        if record.is_due(when, judged):
            record.note(judged)
            found.append(iteration)
    return found


@pytest.mark.parametrize(
    ("when", "levels", "expected"),
    [
        (When("warning"), ".ww.ww", [2, 5]),  # once for each trouble
        (When("alarm"), ".wwaa..a", [4, 8]),
        (When("warning"), ".wwaawwaaw.w", [2, 4, 8, 12]),  # and again when it grows
        (When("warning", after=2), "wwwwww.ww", [3]),
        (When("warning", cooldown=1), "www.w", [1, 2, 3, 5]),
        (When("warning", cooldown=3), "wwwwww.w", [1, 4, 8]),
        (When("warning", cooldown=4), "w.w.w", [1, 5]),  # between two troubles, too
        (When("warning", max_count=2), "w.w.w.w", [1, 3]),
        (When("alarm", after=1, cooldown=2, max_count=2), "aaaaaaaa", [2, 4]),
    ],
)
def test_a_rung_acts(when: When, levels: str, expected: list[int]) -> None:
    assert acts(when, levels) == expected


def test_a_rung_answers_to_its_phases_and_causes_alone() -> None:
    outage = When("warning", causes=["retriever_outage"])
    assert acts(outage, "w", cause="retriever_outage") == [1]
    assert acts(outage, "w", cause="lld_spiral") == acts(outage, "w") == []
    late = When("warning", phases=["acceleration", "collapsed"])
    assert acts(late, "w", phase="collapsed") == [1]
    assert acts(late, "w", phase="decay") == []


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_record_that_was_saved_goes_on_as_if_nothing_had_been(stop: int) -> None:
    when, levels = When("warning", after=1, cooldown=2, max_count=3), "wwaa.wwwa"
    record = Record()
    before = acts(when, levels[:stop], record)
    again = Record.restore(dict(vars(record)))
    assert before + acts(when, levels[stop:], again, start=stop + 1) == acts(when, levels)


@pytest.mark.parametrize(
    "wrong", [{"after": -1}, {"cooldown": 0}, {"max_count": 0}, {"level": "none"}], ids=lambda one: next(iter(one))
)
def test_values_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"`{next(iter(wrong))}` of a rung's `when` in `collapse.ladder`"):
        When(**wrong)
