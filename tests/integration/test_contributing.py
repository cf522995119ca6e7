"""What CONTRIBUTING.md tells a reader to do: its files are written, its command is run, its picture is the layers."""

import csv
import gzip
import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llds.cli import main
from tests.unit.test_layering import LAYERS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """The files that the page shows whole, by the path in their first line."""
    shown = [*blocks("python"), *blocks("yaml")]
    return {block.splitlines()[0].removeprefix("# "): block for block in shown}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as a clone's: with the files of the page, and what a run imports from there is forgotten afterwards."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    for name, text in files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]


def test_every_class_that_the_page_adds_is_where_its_overlay_says(clone: Path) -> None:
    named = {name for text in files().values() for name in re.findall(r"class_path: (lab\.[\w.]+)", text)}
    assert len(named) == 7
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), attribute), type)


@pytest.mark.slow
def test_the_command_trains_with_all_that_the_page_adds(clone: Path) -> None:
    [command] = [block for block in blocks("bash") if block.startswith("llds fit")]
    words = shlex.split(command.replace("\\\n", " "))
    assert {word for word in words if word.startswith("lab/")} == {one for one in files() if one.endswith(".yaml")}
    main(words[1:])

    [path] = (clone / "runs" / "lab" / "trajectories").iterdir()
    with gzip.open(path, "rt") as file:
        trajectories = [json.loads(line) for line in file]
    search, convert, answer = trajectories[0]["turns"]
    assert search["observation"].startswith("\nResult: ")  # protocol
    assert "Norway" in search["observation"]  # retriever
    assert "42.16" in convert["observation"]  # tool: 26.2 * 1.609344
    assert {one["turns"][-1]["content"] for one in trajectories} == {"Oslo", "the city of Oslo"}  # sampler
    assert answer["kind"] == "answer"
    assert {one["reward"] for one in trajectories} == {-0.02, -0.08}  # reward: nobody asked for Oslo; 1 and 4 words

    [log] = (clone / "runs" / "lab" / "csv").glob("*/metrics.csv")
    with log.open() as file:
        rows = list(csv.DictReader(file))
    [row] = [row for row in rows if row.get("reward/mean")]
    assert float(row["lab/answer_words"]) == 2.5  # signal
    assert float(row["policy/mean_log_prob"]) < 0  # loss


def test_the_picture_of_the_rooms_is_that_of_the_layers() -> None:
    [picture] = blocks("text")
    drawn = [set(re.split(r" {3,}", line)[0].split()) for line in picture.splitlines()]
    assert drawn[::-1] == [layer for layer in LAYERS if layer != {"__main__"}]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:llds|tests|tools|conf|\.ci)/[\w./-]*)`", PAGE))))
def test_what_the_page_names_exists(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\b(llds(?:\.\w+)*\.[A-Z]\w+)", PAGE))))
def test_every_class_of_the_page_can_be_imported(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)
