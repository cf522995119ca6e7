"""What an index needs is told before it is built, close to the truth, and too small a machine is refused."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from llds.errors import RetrievalError
from llds.retrieval.corpus import check_corpus
from llds.retrieval.index import folder as index_folder
from llds.retrieval.index import size as index_size
from llds.retrieval.index.size import Memory, check_memory, read_memory, written_bytes

PLACES = [(f"Place {n}", f"Place {n} lies {n * 37 % 100} km north of place {n * 61 % 977}.") for n in range(6_000)]


@pytest.mark.slow
def test_the_disk_that_was_foretold_is_the_disk_that_is_used(make_retriever, write_corpus, tmp_path):
    write_corpus(PLACES)
    retriever = make_retriever()
    foretold = retriever.plan(lambda line: None).size(is_exact=True).disk
    with retriever:
        used = sum(file.stat().st_size for file in (tmp_path / "index").rglob("*") if file.is_file())
    assert 0.7 * used < foretold < 1.5 * used


def test_needs_grow_with_rows_dimension_and_text():
    def size(rows: int = 1_000_000, text: int = 700, dimension: int = 384) -> index_size.IndexSize:
        return index_size.index_size(rows, rows * text, dimension, 16, rows // 10, is_exact=False)

    assert 1.8 < size(rows=2_000_000).disk / size().disk < 2.2
    assert size(dimension=768).build_memory - size().build_memory > 4 * 384 * 1_000_000
    assert size(text=1_400).disk - size().disk > 2 * 700 * 1_000_000
    # A million vectors of 384 numbers are 1.5 GB before anything else.
    assert 1.5e9 < size().search_memory < size().build_memory < 5e9


def test_an_index_larger_than_the_disk_is_refused_and_nothing_is_made(make_retriever, tmp_path, monkeypatch):
    monkeypatch.setattr(index_size, "free_disk", lambda folder: 10_000)
    before = set(tmp_path.iterdir())
    with pytest.raises(
        RetrievalError, match=r"Expected 1 MiB of free disk in .*, got .*Make room, or set another `path`"
    ):
        make_retriever().open()
    assert set(tmp_path.iterdir()) - before == {tmp_path / ".index.lock"}


def test_an_index_larger_than_the_memory_is_refused_and_one_larger_than_what_is_free_warned_of(
    make_retriever, monkeypatch, caplog
):
    monkeypatch.setattr(index_size, "read_memory", lambda: Memory(total=100 << 20, available=50 << 20))
    with pytest.raises(RetrievalError, match=r"MiB of memory for building the index, got a machine .* with 100 MiB"):
        make_retriever().open()
    said: list[str] = []
    check_memory(60 << 20, "it", said.append)
    assert said == ["Memory: it will need 60 MiB; 50 MiB are available."]
    assert "It needs 60 MiB of memory, and 50 MiB are available now." in caplog.text


def test_an_index_larger_than_the_memory_is_not_opened_either(make_retriever, monkeypatch):
    with make_retriever():
        pass
    monkeypatch.setattr(index_size, "read_memory", lambda: Memory(total=100 << 20, available=50 << 20))
    with pytest.raises(RetrievalError, match=r"of memory for searching the index"):
        make_retriever().open()


def test_a_plan_says_what_it_needs_and_makes_nothing(make_retriever, tmp_path):
    said: list[str] = []
    recipe = make_retriever().plan(said.append)
    assert recipe.corpus.passages_hash == check_corpus(tmp_path / "corpus.jsonl").passages_hash
    assert said[0] == "12 passages."
    assert "Disk: the index will need" in said[1]
    assert "Memory: building the index will need" in said[2]
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.jsonl"}


def test_a_full_disk_is_named_and_the_build_goes_on_when_there_is_room(make_retriever, tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise RetrievalError("Expected the half-built index to answer, got InternalError: error in compaction.")

    retriever = make_retriever()
    with monkeypatch.context() as patch:
        patch.setattr(index_folder, "free_disk", lambda folder: 4096)
        patch.setattr("llds.retrieval.index.chroma.ChromaCollection.upsert", full)
        with pytest.raises(
            RetrievalError, match=r"got a full disk \(4,096 bytes are free\)\. Make room .* goes on where"
        ):
            retriever.open()
        assert not (tmp_path / "index").exists()
    with retriever:
        assert retriever.describe()["rows"] == 12


def test_the_memory_of_this_machine_is_read():
    memory = read_memory()
    assert 0 < memory.available <= memory.total
    assert memory.total <= psutil.virtual_memory().total + psutil.swap_memory().total


def test_the_memory_of_a_machine_without_proc_and_cgroups_is_read(monkeypatch):
    """As on macOS."""
    monkeypatch.setattr(index_size, "_CGROUP", Path("/nowhere"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 << 30, available=5 << 30))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=2 << 30, free=1 << 30))
    monkeypatch.setattr(Path, "read_text", lambda path: pytest.fail(f"reads {path}") if "proc" in str(path) else "max")
    assert read_memory() == Memory(18 << 30, 6 << 30)


@pytest.mark.parametrize(
    ("count", "text"), [(5, "1 MiB"), (300 << 20, "300 MiB"), (3 << 29, "1.5 GiB"), (3 << 40, "3,072.0 GiB")]
)
def test_bytes_are_written_for_people(count, text):
    assert written_bytes(count) == text
