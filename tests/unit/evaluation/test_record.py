"""Records of evaluations on disk, and how their cards differ."""

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llds.errors import DataError
from llds.evaluation import card_differences, list_records, new_record_folder, read_record, summarize, write_record
from tests.questions import question

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
QUESTIONS = [question("1", 1.0, question="Où ?\u2028"), question("2", 0.5, answer=None), question("1", source="popqa")]


def written(root: Path, policy: str = "iteration-000030") -> Path:
    folder = new_record_folder(root, "test", policy, NOW)
    write_record(folder, {"stage": "test"}, QUESTIONS)
    return folder


def test_a_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert folder == tmp_path / "evaluation" / "20260102-030405-test-iteration-000030"
    assert {path.name for path in folder.iterdir()} == {"card.json", "results.json", "questions.jsonl", "table.md"}
    for path in (folder, tmp_path):
        record = read_record(path)
        assert (record.folder, record.card, list(record.questions)) == (folder, {"stage": "test"}, QUESTIONS)
    results = json.loads((folder / "results.json").read_text())
    assert results["sources"][0]["exact_match"]["value"] == 0.75
    assert [average["name"] for average in results["averages"]] == ["general", "all"]
    assert results["all_questions"]["n"] == 3
    assert "| NQ | PopQA |" in (folder / "table.md").read_text()
    assert summarize(read_record(folder).questions) == summarize(QUESTIONS)


def test_a_second_evaluation_in_the_same_second_gets_its_own_folder(tmp_path: Path) -> None:
    first, second = written(tmp_path), written(tmp_path)
    assert second.name == f"{first.name}-2"
    assert list_records(tmp_path) == [first, second]


def test_a_policy_of_any_name_makes_a_folder_name(tmp_path: Path) -> None:
    assert new_record_folder(tmp_path, "test", "../a b/ü.", NOW).name == "20260102-030405-test-a-b"
    assert new_record_folder(tmp_path, "test", "...", NOW).name == "20260102-030405-test-policy"


def test_a_condition_that_is_no_plain_value_loses_no_result(tmp_path: Path) -> None:
    folder = new_record_folder(tmp_path, "test", "x", NOW)
    write_record(folder, {"protocol": {"format": Path("a")}}, QUESTIONS)
    assert read_record(folder).card == {"protocol": {"format": "a"}}


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    folder = new_record_folder(tmp_path, "test", "x", NOW)
    (tmp_path / "evaluation").write_text("in the way")
    with pytest.raises(DataError, match="Expected to write the results"):
        write_record(folder, {}, QUESTIONS)
    assert list(tmp_path.iterdir()) == [tmp_path / "evaluation"]


def test_a_half_written_record_is_not_found(tmp_path: Path) -> None:
    folder = written(tmp_path)
    folder.rename(folder.with_name(f".partial-{folder.name}"))
    assert list_records(tmp_path) == []
    with pytest.raises(DataError, match=r"to be the folder of a run that was tested.*got a folder without one"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("card.json", "{", r"Expected JSON at .*card\.json.*damaged"),
        ("card.json", "[]", "Expected a JSON object"),
        ("questions.jsonl", "", "Expected questions in"),
        ("questions.jsonl", "{}\n", r"questions\.jsonl:1, got one without 'data_source'"),
        ("questions.jsonl", '{"data_source": "nq"', r"Expected JSON at .*questions\.jsonl:1"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (written(tmp_path) / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_record(tmp_path)


def test_what_is_no_record_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got nothing"):
        read_record(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="got a file"):
        read_record(tmp_path / "file")


CARD: dict[str, Any] = {
    "created": {"time": "2026-01-01"},
    "policy": {"model": "a", "weights_sha256": "1"},
    "data": {"questions": {"nq": 10, "hotpotqa": 5}},
    "agent_tools": [{"name": "search", "top_k": 3}],
    "retriever": {"fingerprint": "f", "corpus": "c"},
    "environment": {"llds": "0.1"},
}


def changed(**changes: Any) -> dict[str, Any]:
    """The card with values at dotted paths (``__`` for the dot)."""
    card = copy.deepcopy(CARD)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place: Any = card
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[last] = value
    return card


def test_equal_cards_and_other_times_do_not_differ() -> None:
    assert card_differences([CARD, changed(created__time="later")]) == []


def test_differences_are_found_at_any_depth_conditions_first() -> None:
    other = changed(
        environment__llds="0.2", policy__weights_sha256="2", agent_tools__0__top_k=5, data__questions__nq=11
    )
    found = card_differences([CARD, other])
    assert [(one.key, one.values, one.kind) for one in found] == [
        ("data.questions.nq", (10, 11), "condition"),
        ("agent_tools.0.top_k", (3, 5), "condition"),
        ("policy.weights_sha256", ("1", "2"), "policy"),
        ("environment.llds", ("0.1", "0.2"), "environment"),
    ]


def test_any_of_several_cards_may_be_the_one_that_differs() -> None:
    other = changed(retriever__corpus="d")
    for cards in ([other, CARD, CARD], [CARD, other, CARD], [CARD, CARD, other]):
        assert [one.key for one in card_differences(cards)] == ["retriever.corpus"]


def test_what_one_card_lacks_is_a_difference() -> None:
    found = card_differences([CARD, changed(retriever=None), CARD])
    assert [one.key for one in found] == ["retriever.fingerprint", "retriever.corpus", "retriever"]
    assert found[0].values == ("f", "(not set)", "f")
    tools = card_differences([CARD, changed(agent_tools=[])])
    assert {one.kind for one in tools} == {"condition"}
    assert len(tools) == 3
