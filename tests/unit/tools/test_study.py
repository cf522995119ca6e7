"""A study's table keeps its runs to the digit, and takes new ones in whole, whatever happens meanwhile."""

import lzma
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llds.errors import DataError
from llds.monitor import read_metrics
from llds.monitor.sources import metrics_of
from tools.study import Study

ROWS = [{"iteration": 1, "reward/mean": 0.123456}, {"iteration": 2, "reward/mean": 0.5, "policy/entropy": 1.0}]
KEPT = [{"iteration": "1", "reward/mean": "0.1235"}, {"iteration": "2", "reward/mean": "0.5", "policy/entropy": "1"}]
RECORDINGS = Path(__file__).parents[2] / "recordings"


def test_a_run_comes_back_loose_and_packed_and_is_read_by_the_monitor(tmp_path: Path) -> None:
    study = Study(tmp_path / "small")
    assert not study.has("a")
    study.add("a", ROWS)
    for _ in ("loose", "packed"):
        assert study.has("a")
        assert not study.has("b")
        assert study.read() == {"a": KEPT}
        study.pack()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["small.csv.xz"]
    assert [row["reward/mean"] for _, row in metrics_of(study.read()["a"], "a").rows] == [0.1235, 0.5]


def test_a_table_has_the_same_bytes_whatever_the_order_of_its_runs(tmp_path: Path) -> None:
    first, second = Study(tmp_path / "first"), Study(tmp_path / "second")
    for run in ("a", "b", "c"):
        first.add(run, ROWS)
    first.pack()
    for run in ("c", "a", "b"):
        second.add(run, ROWS)
        assert second.pack() == [run]
    assert first.table.read_bytes() == second.table.read_bytes()


def test_a_run_that_is_made_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    study = Study(tmp_path / "small")
    study.add("a", ROWS)
    study.pack()
    study.add("a", ROWS[:1])
    assert study.read() == {"a": KEPT[:1]}
    study.pack()
    assert study.read() == {"a": KEPT[:1]}


def test_packing_that_is_stopped_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path / "small")
    study.add("a", ROWS)
    study.pack()
    study.add("b", ROWS)
    before = study.table.read_bytes()

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("replace", "unlink"):  # before the table takes its name; after, while the loose files are there
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, stop)
            with pytest.raises(KeyboardInterrupt):
                study.pack()
        assert study.read() == {"a": KEPT, "b": KEPT}
        if name == "replace":
            assert study.table.read_bytes() == before
    study.pack()
    assert Study.at(study.table).read() == {"a": KEPT, "b": KEPT}


def test_several_can_add_and_pack_at_a_time(tmp_path: Path) -> None:
    study = Study(tmp_path / "small")

    def add(number: int) -> None:
        study.add(f"run{number}", ROWS)
        study.pack()
        assert study.has(f"run{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert study.read() == dict.fromkeys((f"run{number}" for number in range(24)), KEPT)


def test_a_run_is_unpacked_into_a_file_that_the_monitor_reads(tmp_path: Path) -> None:
    study = Study(tmp_path / "small")
    study.add("a", ROWS)
    study.pack()
    study.unpack(tmp_path / "loose")
    assert [row["reward/mean"] for _, row in read_metrics(tmp_path / "loose" / "a.csv.gz").rows] == [0.1235, 0.5]


@pytest.mark.parametrize("data", [b"no xz", lzma.compress(b"iteration,reward/mean\n1,0.5\n")])
def test_what_is_no_table_of_runs_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.csv.xz").write_bytes(data)
    with pytest.raises(DataError, match=r"bad\.csv\.xz"):
        Study(tmp_path / "bad").read()
    with pytest.raises(DataError, match="no missing"):
        Study(tmp_path / "missing").read()


@pytest.mark.parametrize("run", ["A_lam0_s0", "e4_lr5e4_n2_l0"])
def test_the_examples_of_the_page_are_runs_of_the_study(run: str) -> None:
    rows = Study(RECORDINGS / "prototype").read()[run]
    assert read_metrics(RECORDINGS / f"{run}.csv.gz").rows == metrics_of(rows, run).rows
