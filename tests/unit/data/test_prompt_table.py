"""Prompts in a file: what comes out is what went in, in any order, and nothing is left behind."""

import tempfile
from pathlib import Path
from typing import Any

import pytest

from llds.data.loader import PromptLoader
from llds.data.prompt_table import PromptRow, PromptTable
from llds.errors import DataError
from llds.types import Prompt

MESSAGES = ({"role": "user", "content": "Q?"},)
PROMPTS = [
    Prompt(str(n), f"Frage {n} \u00fc\U0001f3d4?", ("Oslo",) * (n % 3 + 1), ("nq", "tq")[n % 2],
           MESSAGES if n % 4 == 0 else None, f"q.jsonl:{n + 1}", row={"level": n, "hops": [n, None]})
    for n in range(10_000)
]  # fmt: skip


ROWS = [PromptRow(*(getattr(prompt, name) for name in PromptRow._fields)) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def table() -> PromptTable:
    return PromptTable.write(iter(ROWS))


@pytest.mark.slow
def test_what_comes_out_is_what_went_in(table: PromptTable) -> None:
    assert list(table) == PROMPTS == [table[n] for n in range(len(table))]
    assert [prompt.row for prompt in table] == [prompt.row for prompt in PROMPTS]  # equality does not look at rows
    assert list(table.column("golden_answers")) == [list(prompt.golden_answers) for prompt in PROMPTS]
    assert table.question_bytes().tolist() == [len(prompt.question.encode()) for prompt in PROMPTS]
    assert table.have_messages().tolist() == [prompt.messages is not None for prompt in PROMPTS]


def test_parts_and_other_orders_are_tables(table: PromptTable) -> None:
    assert list(table[9_990:]) == PROMPTS[9_990:]
    order = [n * 7_919 % 10_000 for n in range(9_000)]
    assert list(table.select(order)[10:]) == [PROMPTS[n] for n in order[10:]]
    assert list(table.select(order).select([1, 0])) == [PROMPTS[order[1]], PROMPTS[0]]
    joined = PromptTable.joined([table[:3], table.select([8, 2])])
    assert list(joined) == [*PROMPTS[:3], PROMPTS[8], PROMPTS[2]]
    assert table[-1] == PROMPTS[-1]
    with pytest.raises(IndexError):
        table[10_000]


def test_an_empty_table_has_nothing(table: PromptTable) -> None:
    for empty in (PromptTable.write([]), table[:0]):
        assert (len(empty), list(empty), list(empty.lines()), empty.question_bytes().tolist()) == (0, [], [], [])


def test_a_checkpoint_of_prompts_in_memory_fits_the_same_prompts_in_a_table(table: PromptTable) -> None:
    def state(prompts: Any, seed: int = 0) -> dict[str, Any]:
        loader = PromptLoader(prompts, 8, 20, shuffle=True, seed=seed)
        assert [prompt.prompt_id for prompt in loader.peek()] == [prompts[n].prompt_id for n in loader.order(0)[:8]]
        return loader.state_dict()

    assert state(table) == state(PROMPTS)
    assert state(table[1:]) != state(PROMPTS)


def test_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    written = PromptTable.write(ROWS[:10])
    assert list(tmp_path.iterdir()) == []
    assert list(written) == PROMPTS[:10]
    with pytest.raises(ZeroDivisionError):
        PromptTable.write(row for row in ROWS if 1 // (int(row.prompt_id) - 5000))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
    with pytest.raises(DataError, match="TMPDIR"):
        PromptTable.write(ROWS[:10])
