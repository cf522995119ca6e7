"""`llds configs` lists what ships, shows it, and copies it with all that it needs."""

import os
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from llds.cli import main
from llds.cli.commands.configs import command, description
from llds.cli.config.shipped import shipped_file, shipped_names

NAMES = shipped_names()


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What `llds configs` prints."""
    main(["configs", *words])
    return capsys.readouterr().out


def refusal(*words: str) -> str:
    """What `llds configs` refuses with."""
    with pytest.raises(SystemExit) as caught:
        main(["configs", *words])
    return str(caught.value.code)


def test_all_are_listed_in_groups_each_with_what_it_is_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    lines = said(capsys).splitlines()
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  llds:")}
    assert list(listed) == [f"llds:{name}" for name in NAMES]
    assert listed["llds:ablations/no_llds"].startswith("Hypothesis: without LLDS, correct responses lose more")
    assert lines.count("baselines") == 1
    assert lines.index("baselines") + 1 == lines.index(next(line for line in lines if "llds:baselines/direct" in line))


@pytest.mark.parametrize("name", NAMES)
def test_each_begins_with_its_command_and_says_what_it_is_for(name: str) -> None:
    text = shipped_file(name).read_text()
    words = shlex.split(command(text))
    assert words[:2] in (["llds", "fit"], ["llds", "test"])
    assert words[words.index(f"llds:{name}") - 1] == "-c"
    assert 20 < len(description(text)) < 250
    assert not description(text).startswith("llds ")


def test_one_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "show", "llds:quickstart") == shipped_file("quickstart").read_text()


@pytest.mark.parametrize("target", ["", "new/folder", "new/mine.yaml"])
def test_a_copy_brings_all_that_it_needs_and_says_how_to_run_it(
    target: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = said(capsys, "copy", "agents/calculator", *([target] if target else []))
    file = Path(target if target.endswith(".yaml") else f"{target}/calculator.yaml".lstrip("/"))
    assert f"Run it: llds fit -c llds:quickstart -c {file}\n" in text
    assert file.read_text().startswith(f"# llds fit -c llds:quickstart -c {file}\n")
    source = shipped_file("agents/calculator")
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(source.read_text())
    for name in ("arithmetic.jsonl", "calculator.py"):
        assert (file.parent / name).read_bytes() == (source.parent / name).read_bytes()


def test_only_the_copy_itself_is_renamed_in_its_comments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "copy", "paper/search_r1_qwen2.5-3b", str(tmp_path / "my own.yaml"))
    first = (tmp_path / "my own.yaml").read_text().splitlines()[0]
    quoted = shlex.quote(str(tmp_path / "my own.yaml"))
    assert first == f"# llds fit -c {quoted} -c llds:trainer/zero3_8gpu -c llds:rollout/vllm_gpu_shared \\"


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "calculator.py").write_text("mine")
    assert "calculator.py, which exist. Name another TARGET." in refusal("copy", "agents/calculator", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["calculator.py"]


def test_a_target_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Expected a TARGET that can be written" in refusal("copy", "quickstart", str(tmp_path / "file" / "x"))


@pytest.mark.parametrize("words", [("show",), ("copy",), ("list", "quickstart"), ("show", "quickstart", "x"), ("bla",)])
def test_wrong_words_get_the_right_form(words: tuple[str, ...]) -> None:
    assert refusal(*words).startswith("llds: Expected `llds configs [list | show NAME | copy NAME [TARGET]]`, got: ")


def test_an_unknown_name_gets_the_nearest() -> None:
    assert "Did you mean llds:ablations/no_llds" in refusal("copy", "no_llds")


def test_long_descriptions_fit_the_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda fallback=(80, 24): os.terminal_size((90, 24)))
    assert max(map(len, said(capsys).splitlines()[:-1])) <= 90
