"""Preparing data: one normal form, honest counts, nothing half-written."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llds.cli import main
from llds.data import DataSource, read_source

Write = Callable[..., str]


def row(number: int, answer: str = "Oslo", **others: Any) -> dict[str, Any]:
    return {"idx": number, "question": f"Question {number}?", "answer": answer, **others}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def manifest_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def refusal(*args: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["prepare", *args])
    return str(caught.value)


def test_files_of_any_format_become_one_normal_form(write_jsonl: Write, tmp_path: Path) -> None:
    source = write_jsonl(row(1), {"x": 1}, row(2, answer="Bergen<|answer_split|>Bjørgvin", level="hard"))
    (tmp_path / "t.csv").write_text("question,answer\nCapital?,Oslo\n")
    out = tmp_path / "made" / "out"
    main(["prepare", "--train", json.dumps({"path": source, "on_bad_row": "skip"}), "--test", str(tmp_path / "t.csv"),
          "--output", str(out), "--metadata_fields", '["level"]'])  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "test.jsonl", "train.jsonl"]
    assert rows_of(out / "train.jsonl") == [
        {"id": "1", "question": "Question 1?", "golden_answers": ["Oslo"], "data_source": "questions",
         "metadata": {"file": "questions.jsonl", "row": 1}},
        {"id": "2", "question": "Question 2?", "golden_answers": ["Bergen", "Bjørgvin"], "data_source": "questions",
         "metadata": {"file": "questions.jsonl", "row": 3, "level": "hard"}},
    ]  # fmt: skip
    written = manifest_of(out)
    assert written["sources"]["train"][0]["skipped_rows"] == 1
    assert written["sources"]["train"][0]["sha256"] == hashlib.sha256(Path(source).read_bytes()).hexdigest()
    for name, count in (("train", 2), ("test", 1)):
        made = written["files"][f"{name}.jsonl"]
        assert made["questions"] == count
        assert made["sha256"] == hashlib.sha256((out / f"{name}.jsonl").read_bytes()).hexdigest()
        assert (
            made["questions_sha256"]
            == read_source(DataSource(str(out / f"{name}.jsonl"))).describe()["questions_sha256"]
        )


def test_the_same_command_writes_the_same_bytes(write_jsonl: Write, tmp_path: Path) -> None:
    source = json.dumps({"path": write_jsonl(*map(row, range(30))), "shuffle": True, "limit": 9})
    for name in ("a", "b"):
        main(["prepare", "--train", source, "--output", str(tmp_path / name)])
    for name in ("train.jsonl", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(rows_of(tmp_path / "a" / "train.jsonl")) == 9


@pytest.fixture
def overlapping(write_jsonl: Write) -> tuple[str, str]:
    train = write_jsonl(
        row(1), row(2), row(3, question="question 1"), row(4, question="The Question 2??", answer="Bergen"), row(5),
        name="train.jsonl",
    )  # fmt: skip
    return train, write_jsonl(row(1, question="QUESTION 5"), row(2), row(3), name="test.jsonl")


def test_repeated_questions_are_reported_within_and_between_sets(
    overlapping: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["prepare", "--train", overlapping[0], "--test", overlapping[1], "--output", str(tmp_path / "out")])
    assert manifest_of(tmp_path / "out")["duplicates"] == {
        "within train": {"questions": 2, "with_other_answers": 1},
        "within test": {"questions": 0, "with_other_answers": 0},
        "train in test": {"questions": 3, "with_other_answers": 1},  # 5, 2, and the other spelling of 2
    }
    assert len(rows_of(tmp_path / "out" / "train.jsonl")) == 5
    shown = capsys.readouterr().out
    assert "repeated within train: 2 questions, 1 of them with other answers\n" in shown
    assert "repeated within test: none\n" in shown
    assert "repeated train in test: 3 questions" in shown


def test_repeated_questions_are_dropped_where_that_is_asked_for(overlapping: tuple[str, str], tmp_path: Path) -> None:
    main(["prepare", "--train", overlapping[0], "--test", overlapping[1], "--output", str(tmp_path / "out"),
          "--drop_duplicates", "true"])  # fmt: skip
    assert [one["id"] for one in rows_of(tmp_path / "out" / "train.jsonl")] == ["1"]
    assert len(rows_of(tmp_path / "out" / "test.jsonl")) == 3
    assert manifest_of(tmp_path / "out")["settings"]["drop_duplicates"] is True


@pytest.mark.parametrize(
    ("weights", "size", "expected"),
    [
        ((1, 1), [], (10, 10)),  # the smaller source is used up
        ((1, 3), [], (10, 30)),
        ((4, 1), [], (10, 2)),  # 12.5 questions: 12
        ((1, 2), ["--size", "9"], (3, 6)),
    ],
)
def test_a_mixture_has_its_shares_and_repeats_nothing(
    write_jsonl: Write, tmp_path: Path, weights: tuple[int, int], size: list[str], expected: tuple[int, int]
) -> None:
    paths = [write_jsonl(*map(row, range(count)), name=f"{name}.jsonl") for name, count in (("a", 10), ("b", 40))]
    sources = [{"path": path, "weight": weight} for path, weight in zip(paths, weights, strict=True)]
    main(["prepare", "--train", json.dumps(sources), "--output", str(tmp_path / "out"), *size])
    rows = rows_of(tmp_path / "out" / "train.jsonl")
    assert Counter(one["data_source"] for one in rows) == {"a": expected[0], "b": expected[1]}
    assert len({(one["data_source"], one["id"]) for one in rows}) == len(rows)


def test_sources_come_from_a_configuration_file(write_jsonl: Write, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"train:\n  path: {write_jsonl(row(1), row(2))}\n  limit: 1\n  name: mine\n")
    main(["prepare", "-c", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "out")])
    assert [one["data_source"] for one in rows_of(tmp_path / "out" / "train.jsonl")] == ["mine"]


def test_what_cannot_work_is_one_line_and_writes_nothing(write_jsonl: Write, tmp_path: Path) -> None:
    good, bad, out = write_jsonl(row(1)), write_jsonl(row(1), "oh", name="bad.jsonl"), str(tmp_path / "out")
    weighted = json.dumps([{"path": good, "weight": 1}, {"path": bad, "weight": 1, "on_bad_row": "skip"}])
    for arguments, message in (
        (["--output", out], "Expected `--train`, `--validation` or `--test`"),
        (["--train", good], "`--output`"),
        (["--train", bad, "--output", out], f"{bad}:2"),
        (["--train", str(tmp_path / "nowhere.jsonl"), "--output", out], "no such file"),
        (["--train", good, "--size", "3", "--output", out], "`--size`"),
        (["--train", weighted, "--size", "3", "--output", out], "Expected 2 questions in"),
        (["--test", json.dumps({"path": good, "weight": 1}), "--output", out], "`weight`"),
        (["--train", json.dumps({"path": good, "limt": 1}), "--output", out], "limt"),
        (["--trian", good, "--output", out], "trian"),
        (["--train", good, "--metadata_fields", '["levle"]', "--output", out], "levle"),
        (["--train", good, "--output", f"{good}/x"], "Expected to write"),
    ):
        text = refusal(*arguments)
        assert text.startswith("llds: Expected "), text
        assert message in text
        assert "\n" not in text
        assert not Path(out).exists()


def test_all_bad_files_of_all_sets_and_all_their_rows_are_named_at_once(write_jsonl: Write, tmp_path: Path) -> None:
    bad = write_jsonl(row(1), *[{"idx": n, "question": "?", "answer": ""} for n in range(2, 14)], name="bad.jsonl")
    other = write_jsonl(row(1), {"idx": 2, "answer": "x"}, name="other.jsonl")
    said = refusal(
        "--train", json.dumps([bad, str(tmp_path / "no.jsonl")]), "--test", other, "--output", str(tmp_path / "o")
    )
    assert "got 3 that cannot" in said
    assert f"{bad}, got 12 that cannot" in said
    assert f"{bad}:11." in said
    assert "... and 2 more." in said
    assert "no.jsonl, got no such file" in said
    assert f"{other}:2" in said
    assert not (tmp_path / "o").exists()


def test_ids_that_come_again_in_another_file_are_all_named(write_jsonl: Write, tmp_path: Path) -> None:
    files = [write_jsonl(row(1), row(2), name=name) for name in ("a.jsonl", "b.jsonl")]
    train = json.dumps([{"path": file, "name": "same"} for file in files])
    said = refusal("--train", train, "--output", str(tmp_path / "o"))
    assert "the files of `train` together, got 2 that cannot" in said
    assert f"{files[1]}:2" in said


def test_a_folder_that_holds_data_is_left_alone(write_jsonl: Write, tmp_path: Path) -> None:
    source, out = write_jsonl(row(1)), tmp_path / "out"
    main(["prepare", "--train", source, "--output", str(out)])
    before = (out / "train.jsonl").read_bytes()
    assert "which holds manifest.json, train.jsonl" in refusal("--train", source, "--output", str(out))
    assert (out / "train.jsonl").read_bytes() == before
