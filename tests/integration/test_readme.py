"""What the README tells a reader to type exists and parses."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llds.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PLACES = {"MODEL_FOLDER": "llds:quickstart/policy"}
"""What stands in the README for something of the reader's own."""


TOO_SHORT_TO_JUDGE = 3
"""Exit status of `llds diagnose` after two iterations."""


def section(heading: str) -> str:
    """The text below a heading."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section {heading}"
    return found[1]


def shell_lines(text: str) -> list[str]:
    """Lines of the fenced shell blocks, those that a backslash continues joined."""
    blocks = re.findall(r"^```(?:bash|sh|shell)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def llds_commands() -> list[str]:
    """All commands `llds ...` in fenced blocks, and those with a configuration in running text."""
    fenced = [part.strip() for line in shell_lines(README) for part in line.split("&&")]
    inline = [code.replace("\n", " ") for code in re.findall(r"`(llds [^`]*)`", README.replace("```", "\0"))]
    return sorted({one for one in fenced + inline if one.startswith("llds ") and " -c " in one})


def test_the_readme_has_commands_in_its_main_sections() -> None:
    assert shell_lines(section("Quickstart"))
    assert len(shell_lines(section("Tests"))) == 1
    assert len(llds_commands()) >= 4


def test_the_quickstart_is_one_command_that_installs_and_trains() -> None:
    first = shell_lines(section("Quickstart"))[0]
    assert "pip install" in first
    assert first.endswith("&& llds fit -c conf/quickstart.yaml")


def test_the_command_of_the_tests_is_the_one_that_ci_runs() -> None:
    assert shell_lines(section("Tests"))[0] in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\bconf/[\w./-]+", README))))
def test_every_configuration_that_is_named_exists(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", llds_commands())
def test_every_command_parses(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = [PLACES.get(word, word) for word in shlex.split(command, comments=True)]
    assert words[0] == "llds"
    kept = [word for word in words[1:] if word != "last"]
    kept = [word for word in kept if word != "--ckpt_path"]  # no run is there to go on with
    with pytest.raises(SystemExit) as caught:
        main([*kept, "--print_config"])
    assert caught.value.code == 0, caught.value.code
    assert capsys.readouterr().out.startswith("# lightning")


@pytest.mark.slow
@pytest.mark.nightly
def test_the_notebook_runs_from_the_quickstart_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "outputs are stripped"
    names: dict[str, Any] = {}
    for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
        if source.startswith("!"):  # a command of the shell, with values of the notebook in braces
            done = subprocess.run(shlex.split(source[1:].format(**names)), timeout=300)
            assert done.returncode in (0, TOO_SHORT_TO_JUDGE), source
        else:
            exec(source.replace("ITERATIONS = 30", "ITERATIONS = 2"), names)  # noqa: S102
    assert len(names["rows"]) == 2
    assert "<search>" in capsys.readouterr().out
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
