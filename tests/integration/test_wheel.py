"""The wheel holds all that llds needs: installed far from any clone, in an empty folder, it trains."""

import csv
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONF = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.*") if "__pycache__" not in path.parts}
SMALL = ("--data.batch_size", "4", "--rollout.group_size", "2", "--model.optimization.mini_batch_size", "2")
RETRIEVER = ("--retrieval.retriever.corpus", "corpus.jsonl", "--retrieval.retriever.path", "index")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as a package index would."""
    folder = tmp_path_factory.mktemp("dist")
    build = "from setuptools.build_meta import {0}; print({0}({1!r}))"
    run([sys.executable, "-c", build.format("build_sdist", str(folder))], ROOT)
    (archive,) = folder.glob("*.tar.gz")
    run(["tar", "xzf", archive.name], folder)
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    run([sys.executable, "-c", build.format("build_wheel", str(folder))], source)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with llds from the wheel; its dependencies are those that are here already."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    here = sysconfig.get_path("purelib")
    run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], folder)
    (site / "dependencies.pth").write_text(f"{here}\n")  # a line of its own: what an editable install says is not read
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with a small corpus and nothing of the clone."""
    folder = tmp_path_factory.mktemp("empty")
    with (ROOT / "llds" / "quickstart" / "corpus.jsonl").open() as lines:
        (folder / "corpus.jsonl").write_text("".join(line for line, _ in zip(lines, range(40), strict=False)))
    return folder


def run(command: list[str], folder: Path) -> str:
    """What a command prints; a status other than 0 fails the test."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def llds(python: Path, folder: Path, *words: str) -> str:
    """What `llds` prints."""
    return run([str(python), "-m", "llds", *words], folder)


def test_the_wheel_holds_the_configurations_and_the_data_and_nothing_of_the_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.removeprefix("llds/") for name in names if name.startswith("llds/conf/")} == CONF
    quickstart = {path.relative_to(ROOT).as_posix() for path in (ROOT / "llds" / "quickstart").rglob("*.*")}
    wanted = {name for name in quickstart if "__pycache__" not in name} | {"llds/report/page.html", "llds/py.typed"}
    assert wanted - set(names) == set()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"llds"}


def test_llds_comes_from_the_wheel(python: Path, empty: Path) -> None:
    where = run([str(python), "-c", "import llds; print(llds.__file__)"], empty).strip()
    assert Path(where).is_relative_to(python.parents[1])


def test_help_and_the_list_of_configurations_work_anywhere(python: Path, empty: Path) -> None:
    assert "fit" in llds(python, empty, "--help")
    assert "llds:ablations/no_llds" in llds(python, empty, "configs")


def test_the_quickstart_trains_and_goes_on_from_another_folder_and_is_measured(
    python: Path, empty: Path, tmp_path: Path
) -> None:
    files = ("-c", "llds:quickstart", "-c", "llds:ablations/no_llds")
    llds(python, empty, "fit", *files, *SMALL, *RETRIEVER, "--data.iterations", "2")
    saved = empty / "runs" / "no_llds" / "config.yaml"
    iterations = ("--data.iterations", "3", "--ckpt_path", "last")
    llds(python, tmp_path, "fit", "-c", str(saved), *iterations)
    rows = (empty / "runs" / "no_llds").glob("csv/*/metrics.csv")
    assert sum(len(path.read_text().splitlines()) - 1 for path in rows) >= 3
    assert list(tmp_path.iterdir()) == []
    llds(python, empty, "fit", "-c", "llds:quickstart_chat", *SMALL, *RETRIEVER, "--data.iterations", "2")
    (chats,) = (empty / "runs" / "quickstart_chat").glob("csv/*/metrics.csv")
    signals = [row for row in csv.DictReader(chats.read_text().splitlines()) if row["rollout/tool_calls"]]
    assert len(signals) == 2
    assert min(float(row["rollout/valid_action_rate"]) for row in signals) > 0.9
    assert min(float(row["rollout/tool_calls"]) for row in signals) > 0
    assert all(float(row["policy/behavior_gap_max"]) <= 1e-4 for row in signals)
    questions = ("--data.test", "{path: llds:quickstart/test.jsonl, limit: 8}")
    llds(python, tmp_path, "test", "-c", str(saved), "--ckpt_path", "last", *questions)
    (record,) = (saved.parent / "evaluation").iterdir()
    assert any(record.iterdir())


@pytest.mark.nightly
def test_a_copy_of_the_agent_with_a_tool_trains_from_where_it_lies(python: Path, empty: Path, tmp_path: Path) -> None:
    said = llds(python, empty, "configs", "copy", "agents/calculator", "mine")
    assert "Run it: llds fit -c llds:quickstart -c mine/calculator.yaml" in said
    files = ("-c", "llds:quickstart", "-c", str(empty / "mine" / "calculator.yaml"))
    llds(python, tmp_path, "fit", *files, *SMALL, "--data.iterations", "1")
    saved = yaml.safe_load((tmp_path / "runs" / "calculator" / "config.yaml").read_text())
    assert saved["import_from"] == [str(empty / "mine")]
    assert saved["data"]["init_args"]["train"] == str(empty / "mine" / "arithmetic.jsonl")
