"""The vocabulary says something of every signal, and the page the same; callbacks/signals tests that it is complete."""

from collections import Counter
from pathlib import Path

from llds.monitor import SIGNALS
from llds.monitor.signals import as_markdown

DOCS = Path(__file__).parents[3] / "docs"


def test_names_are_unique_and_every_field_says_something() -> None:
    assert max(Counter(signal.name for signal in SIGNALS).values()) == 1
    assert all(signal.meaning and signal.unit and signal.healthy for signal in SIGNALS)


def test_the_page_is_the_table() -> None:
    assert (DOCS / "signals.md").read_text() == as_markdown()
