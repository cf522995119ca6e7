"""Data sources: which questions are used, what is left out, and what the record of it says."""

import datetime
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from llds.data import DataSource, read_prompts, read_source
from llds.errors import DataError
from llds.rewards import exact_match

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="the shared research data is not on this machine")
Write = Callable[..., str]


def row(number: int, **others: Any) -> dict[str, Any]:
    return {"id": number, "question": f"Question {number}?", "golden_answers": ["Oslo"], **others}


def ids(source: DataSource) -> list[int]:
    return [int(prompt.prompt_id) for prompt in read_prompts(source)]


def test_a_limit_takes_the_first_questions_and_reads_no_further(write_jsonl: Write) -> None:
    path = write_jsonl(row(1), row(2), "not json")
    assert ids(DataSource(path, limit=2)) == [1, 2]
    with pytest.raises(DataError, match="not json"):
        ids(DataSource(path, limit=3))


def test_a_limit_counts_the_rows_that_are_used(write_jsonl: Write) -> None:
    path = write_jsonl(row(1), "not json", row(2), row(3))
    assert ids(DataSource(path, limit=2, on_bad_row="skip")) == [1, 2]
    path = write_jsonl(row(1), row(1), row(2), "not json", row(3))
    assert ids(DataSource(path, limit=2, on_bad_row="skip")) == [1, 2]
    assert read_source(DataSource(path, limit=2, on_bad_row="skip")).bad_rows.count == 1


def test_a_shuffled_source_with_a_limit_is_a_sample_by_its_seed(write_jsonl: Write) -> None:
    path = write_jsonl(*[row(number) for number in range(100)])
    sample = ids(DataSource(path, shuffle=True, limit=10))
    assert sample == ids(DataSource(path, shuffle=True))[:10] != ids(DataSource(path, shuffle=True, seed=1, limit=10))
    assert sorted(ids(DataSource(path, shuffle=True))) == list(range(100)) != ids(DataSource(path, shuffle=True))
    assert max(sample) > 20


def test_data_sets_of_a_merged_file_are_chosen_and_renamed(write_jsonl: Write) -> None:
    path = write_jsonl(*[row(number, data_source=("tq", "nq", "Bamboogle")[number % 3]) for number in range(9)])
    assert [p.data_source for p in read_prompts(DataSource(path, data_sources=["nq"], limit=2))] == ["nq", "nq"]
    prompts = read_prompts(DataSource(path, data_sources={"tq": "triviaqa", "Bamboogle": "bamboogle"}))
    assert Counter(prompt.data_source for prompt in prompts) == {"triviaqa": 3, "bamboogle": 3}
    with pytest.raises(DataError, match=r"data sets NQ in .*got Bamboogle, nq, tq\. Correct"):
        read_prompts(DataSource(path, data_sources=["nq", "NQ"]))


def test_skipped_rows_are_counted_with_the_first_reason(write_jsonl: Write) -> None:
    path = write_jsonl(row(1), "oh", row(2, golden_answers=[""]), row(1), row(3, question=None), row(4))
    questions = read_source(DataSource(path, on_bad_row="skip"))
    assert [prompt.prompt_id for prompt in questions.prompts] == ["1", "4"]
    assert questions.bad_rows.count == questions.describe()["skipped_rows"] == 4
    (line,) = questions.notes()
    assert line.startswith(f"{path}: skipped 4 malformed rows; the first: Expected one JSON object per line, got 'oh'")
    assert read_source(DataSource(path, limit=1)).notes() == []


def test_a_file_of_malformed_rows_alone_is_an_error_though_rows_are_skipped(write_jsonl: Write) -> None:
    path = write_jsonl(*[row(number, question="") for number in range(5)])
    with pytest.raises(DataError, match=r"at least one usable row in .*, got 5 malformed rows\. The first: .*jsonl:1"):
        read_prompts(DataSource(path, on_bad_row="skip"))


def test_bad_rows_are_named_in_the_order_of_the_file_whether_the_reader_or_a_column_refused_them(
    write_jsonl: Write,
) -> None:
    path = write_jsonl(row(1), row(2, question=""), row(3), "oh", *[row(number) for number in range(5, 400)], "[]")
    with pytest.raises(DataError) as caught:
        read_prompts(DataSource(path))
    assert re.findall(rf"^.*{re.escape(str(path))}:(\d+)", str(caught.value), re.MULTILINE)[-3:] == ["2", "4", "400"]
    assert ids(DataSource(path, on_bad_row="skip")) == [1, 3, *range(5, 400)]


def test_all_bad_rows_of_a_file_are_named_at_once_the_first_ten_with_their_place(write_jsonl: Write) -> None:
    bad = [row(100 + number, question="") for number in range(11)]
    path = write_jsonl(row(1), "oh", row(1), *bad, row(2))
    with pytest.raises(DataError, match=rf"^Expected rows that can be used in {path}, got 13 that cannot:\n") as caught:
        read_prompts(DataSource(path))
    lines = str(caught.value).splitlines()
    assert "one JSON object per line" in lines[1]
    assert "ids to be unique" in lines[2]
    assert [f"{path}:{number}." in line for number, line in enumerate(lines[1:11], start=2)] == [False] + [True] * 9
    assert lines[11].strip() == "... and 3 more."
    assert "`on_bad_row: skip`" in lines[12]


def test_a_prompt_carries_its_row_in_plain_values(tmp_path: Path) -> None:
    day = datetime.date(2026, 1, 2)
    values = row(1, level="hard", hops=[{"title": "Oslo", "score": 0.5, "seen": None}], day=day, picture=b"\xff!")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([values]), tmp_path / "q.parquet")
    (prompt,) = read_prompts(DataSource(str(tmp_path / "q.parquet")))
    assert prompt.row == row(1, level="hard", hops=values["hops"], day="2026-01-02", picture="\\xff!")
    assert json.loads(json.dumps(prompt.row)) == prompt.row  # so that any checkpoint can hold it


def test_a_row_holds_the_columns_that_are_named(write_jsonl: Write) -> None:
    path = write_jsonl(row(1, level="hard", extra_info={"hops": 2**70}, text="x" * 2_000_000))
    with pytest.raises(DataError, match=r"at most 1,048,576 bytes .*got 2,000,\d+ at .*:1\. .*`row_fields`"):
        read_prompts(DataSource(path))
    (prompt,) = read_prompts(DataSource(path, row_fields=["level", "extra_info.hops"]))
    assert prompt.row == {"level": "hard", "extra_info.hops": 2**70}
    assert read_prompts(DataSource(path, row_fields=[]))[0].row == {}
    with pytest.raises(DataError, match=r"column `lvl`.*Set `row_fields`"):
        read_prompts(DataSource(path, row_fields=["lvl"]))


def test_an_id_that_comes_twice_is_malformed(write_jsonl: Write) -> None:
    path = write_jsonl(row(1), row(2), row(1, question="Another?"))
    with pytest.raises(DataError, match=r"unique .*'questions', got '1' at .*:1 and at .*:3\."):
        read_prompts(DataSource(path))
    assert ids(DataSource(path, on_bad_row="skip")) == [1, 2]


def test_the_record_names_file_questions_and_choice(write_jsonl: Write) -> None:
    path = write_jsonl(row(1, data_source="nq"), row(2, data_source="tq"), row(3, data_source="nq"))
    record = read_source(DataSource(path, limit=2, shuffle=True, seed=5, weight=0.5)).describe()
    assert record["path"] == path
    assert record["sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert record["questions"] == 2 == sum(record["data_sources"].values())
    assert (record["limit"], record["shuffle_seed"], record["weight"]) == (2, 5, 0.5)
    assert json.loads(json.dumps(record)) == record
    plain = read_source(DataSource(path)).describe()
    assert (plain["shuffle_seed"], plain["answers_in"]) == (None, None)


def test_the_hash_of_the_questions_is_that_of_their_content(write_jsonl: Write, tmp_path: Path) -> None:
    def content_hash(*rows: Any, **settings: Any) -> str:
        path = write_jsonl(*rows, name="q.jsonl")
        return str(read_source(DataSource(path, **settings)).describe()["questions_sha256"])

    same = content_hash(row(1), row(2))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row(1), row(2)]), tmp_path / "q.parquet")
    assert read_source(DataSource(str(tmp_path / "q.parquet"))).describe()["questions_sha256"] == same
    assert content_hash(row(1, note="x"), row(2), row(3), limit=2) == same
    others = [
        content_hash(row(2), row(1)),
        content_hash(row(1)),
        content_hash(row(1), row(2, golden_answers=["Bergen"])),
        content_hash(row(1), row(2), name="other"),
        content_hash(row(1), row(2, question="Another?")),
    ]
    assert len({same, *others}) == 6


@needs_real
@pytest.mark.parametrize(
    ("file", "count", "first"),
    [
        ("questions/deepresearcher_test.parquet", 3197, ("2wiki_db6a0c8c0bdd11eba7f7acde48001122", "20 July 1851")),
        ("questions/r1searcher_2wiki_500.jsonl", 500, ("1", "Tetisheri")),
        ("questions/r1searcher_hotpotqa_500.jsonl", 500, ("1", "Kauffman Stadium")),
        ("questions/r1searcher_musique_500.jsonl", 500, ("1", "Academy Award for Best Live Action Short Film")),
        ("questions/r1searcher_bamboogle.jsonl", 125, ("1", "james madison")),
        ("questions/hipporag_hotpotqa_train.json", 100, ("5a77ec115542992a6e59dff7", "a spirit")),
        ("train/r1searcher_stage_2.jsonl", 8148, ("1", "filmmaker")),
    ],
)
def test_every_public_file_loads_by_its_path_alone(file: str, count: int, first: tuple[str, str]) -> None:
    prompts = read_prompts(DataSource(str(REAL / file)))
    assert len(prompts) == count
    assert (prompts[0].prompt_id, prompts[0].golden_answers[0]) == first


@pytest.mark.parametrize(
    ("row", "golds"),
    [
        ('"answer": 3.5', ("3.5",)),
        ('"answer": true', ("yes", "true")),
        ('"answers": [{"text": "x1", "answer_start": 0}]', ("x1",)),
        (r'"reward_model": {"ground_truth": "{\"target\": [\"x1\"]}"}', ("x1",)),
        ("\"golden_answers\": \"array(['x', 'y'], dtype=object)\"", None),
        ('"answer": "{Awayland}"', ("{Awayland}",)),
        (r'"answers": ["[\"x1\"]"]', ("x1",)),
        (r'"answer": "She has 3 + 4 = 7.\n#### 7"', ("7",)),  # GSM8K
        ('"answer": "(What\'s the Story) Morning Glory?"', ("(What's the Story) Morning Glory?",)),
        ('"answer": "(\'Til Tuesday)"', ("('Til Tuesday)",)),
        ('"answer": "#### Oslo ####"', ("#### Oslo ####",)),
    ],
)
def test_gold_answers_of_every_shape_have_their_right_value(
    tmp_path: Path, row: str, golds: tuple[str, ...] | None
) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"question": "a?", {row}}}')
    source = DataSource(str(tmp_path / "rows.jsonl"))
    if golds is not None:
        assert read_prompts(source)[0].golden_answers == golds
        return
    with pytest.raises(DataError, match="written as JSON"):
        read_prompts(source)


@needs_real
def test_the_benchmarks_load_whole_though_two_have_answers_that_normalise_to_nothing(tmp_path: Path) -> None:
    conf = yaml.safe_load((Path(__file__).parents[3] / "conf" / "eval" / "benchmarks.yaml").read_text())
    for source in conf["data"]["init_args"]["test"]:
        path = Path(source["path"].replace("${data_root}", str(tmp_path)))
        path.parent.mkdir()
        golds = {"nq": ["---"], "hotpotqa": ["The The"]}.get(source["name"], ["Oslo"])
        path.write_text(json.dumps({"id": "test_0", "question": "Who?", "golden_answers": golds}) + "\n")
        [prompt] = read_source(DataSource(str(path), name=source["name"])).prompts
        assert prompt.golden_answers == tuple(golds)
        assert exact_match(golds[0].lower(), prompt.golden_answers)
        assert not exact_match("", prompt.golden_answers)


def test_the_seven_benchmarks_carry_their_names_and_aliases() -> None:
    prompts = read_prompts(DataSource(str(REAL / "questions" / "deepresearcher_test.parquet")))
    names = dict.fromkeys(("2wiki", "popqa", "tq", "hotpotqa", "nq", "musique"), 512)
    assert Counter(prompt.data_source for prompt in prompts) == {**names, "Bamboogle": 125}
    assert max(len(prompt.golden_answers) for prompt in prompts) > 10
    assert not any("<|answer_split|>" in answer for prompt in prompts for answer in prompt.golden_answers)
