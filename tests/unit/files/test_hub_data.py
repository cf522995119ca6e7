"""Data by name: the files of a split, from a hub and from its cache, and refusals that say what to name instead."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llds.cli import main
from llds.data import DataSource, read_prompts
from llds.errors import DataError
from llds.files import file_hash, read_rows, with_pins
from llds.files import hub_data as data
from llds.retrieval.corpus import check_corpus
from tests.hub import Hub, Repository, serving_hub, use_hub


def rows(*questions: str) -> bytes:
    return b"".join(json.dumps({"question": q, "answer": "x"}).encode() + b"\n" for q in questions)


def parquet(*questions: str) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"question": questions, "answer": ["x"] * len(questions)}), file)
    return file.getvalue()


FILES = {
    "README.md": b"# Questions",
    "loading.py": b"raise SystemExit",
    "data/train-00000-of-00002.parquet": parquet("a?", "b?"),
    "data/train-00001-of-00002.parquet": parquet("c?"),
    "data/test-00000-of-00001.parquet": parquet("t?"),
    "nq/test.jsonl": rows("nq?"),
    "nq-2019.jsonl": rows("old?"),
    "corpus.jsonl": b'{"id": "1", "contents": "\\"T\\"\\nx"}\n',
}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    repositories = {
        ("dataset", "Org/Sets"): Repository(dict(FILES)),
        ("dataset", "Org/One"): Repository({"train.jsonl": rows("one?"), "dataset_infos.txt": b""}),
        ("dataset", "Org/Code"): Repository({"loading.py": b"raise SystemExit"}),
        ("dataset", "Org/Gated"): Repository({}, is_gated=True),
    }
    with serving_hub(repositories) as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "cache")
        monkeypatch.setattr(data, "_fetched", {})
        yield hub


def questions(path: str, **settings: Any) -> list[tuple[str, str, str]]:
    prompts = read_prompts(DataSource(path, **settings))
    return [(prompt.data_source, prompt.prompt_id, prompt.question) for prompt in prompts]


def test_a_split_is_all_of_its_parts_with_ids_that_go_on(served: Hub) -> None:
    found = questions("hf://datasets/Org/Sets/train")
    assert found == [("Sets", "1", "a?"), ("Sets", "2", "b?"), ("Sets", "3", "c?")]
    assert questions("hf://datasets/Org/Sets@v1/nq/test.jsonl") == [("nq", "1", "nq?")]
    assert questions("hf://datasets/Org/One") == [("One", "1", "one?")]
    assert questions("hf://datasets/Org/Sets/nq-2019") == [("Sets", "1", "old?")]
    got = {file for file, _ in served.downloads}
    assert "loading.py" not in got
    assert "data/test-00000-of-00001.parquet" not in got, "only what was asked for is downloaded"


def test_a_name_is_asked_for_once_and_means_one_commit(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "hf://datasets/Org/Sets/train"
    first = file_hash(name)
    asked = len(served.requests)
    assert [row.values["question"] for row in read_rows(name, limit=1)] == ["a?"]
    assert len(served.requests) == asked
    commit = served.repositories["dataset", "Org/Sets"].commit
    assert with_pins({"path": name}) == {"path": f"hf://datasets/Org/Sets@{commit}/train"}
    served.repositories["dataset", "Org/Sets"].files["data/train-00000-of-00002.parquet"] = parquet("new?")
    use_hub(monkeypatch, served.url, tmp_path / "cache", is_offline=True)
    monkeypatch.setattr(data, "_fetched", {})
    assert file_hash(name) == first, "without a network the cache is enough"
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        data.data_files("hf://datasets/Org/One")


def test_a_corpus_and_prepared_questions_come_by_name(served: Hub, tmp_path: Path) -> None:
    corpus = check_corpus(Path("hf://datasets/Org/Sets/corpus"))  # pathlib makes one slash of two
    assert [passage.title for passage in corpus] == ["T"]
    main(["prepare", "--test", "hf://datasets/Org/Sets/nq/test", "--output", str(tmp_path / "out")])
    assert "nq?" in (tmp_path / "out" / "test.jsonl").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Org/Sets", "one set of data files in .*Org/Sets, got corpus, data/test, data/train, nq-2019, nq/test. Name"),
        ("Org/Sets/dev", "Org/Sets with dev, got corpus, .* Name one of them, such as hf://datasets/Org/Sets/corpus"),
        ("Org/Code", "got no jsonl, json, csv, tsv or parquet file. Choose another data set"),
        ("Org/Gated", "is gated: ask for access at http.*/datasets/Org/Gated"),
        ("Org/None", "has no such dataset"),
        ("Org/Sets@v9/train", "no such revision"),
        ("squad", "Expected a data set by name as `hf://datasets/OWNER/NAME`"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_said_in_words(served: Hub, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_prompts(DataSource(f"hf://datasets/{name}"))
