"""The table of commands: each has help that comes at once, and nothing points a user to a script of a clone."""

import contextlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llds import __version__
from llds.callbacks import RetrievalCallback
from llds.cli import main
from llds.cli.config.retrieval import RetrievalKeys
from llds.cli.table import COMMANDS, GROUPS

ROOT = Path(__file__).parents[3]
LIGHT = [name for name, command in COMMANDS.items() if not command.trains]
MOVED = "build_index|prepare_data|compare_runs|export_checkpoint|memory_estimate|convert_smollm2"
TEXTS = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
SOURCES = sorted((ROOT / "llds").rglob("*.py"))


def test_help_lists_every_command_with_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for command in COMMANDS.values():
        assert command.help.endswith(".")
        assert any(line.split() == [command.name, *command.help.split()] for line in lines), command.name
    assert {f"{title}:" for title in GROUPS} < set(lines)
    assert max(map(len, lines)) <= 100


def test_the_start_names_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = re.findall(r"^  llds (\S+)", capsys.readouterr().out, re.MULTILINE)
    assert 2 <= len(shown) <= 3
    assert set(shown) <= COMMANDS.keys()


def test_help_of_a_command_can_be_asked_for_in_two_ways(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["help", "diagnose"], ["diagnose", "--help"]):
        with contextlib.suppress(SystemExit):
            main(words)
        assert capsys.readouterr().out.startswith("usage: llds diagnose")


def test_without_a_command_help_is_shown_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 1
    assert "usage: llds COMMAND" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"llds {__version__}\n"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("fti", "got `fti`. Did you mean `llds fit`?"),
        ("serve_retriever", "Did you mean `llds serve-retriever`?"),
        ("indx", "Did you mean `llds index`?"),
        ("qqqq", "Choose from compare, configs, convert"),
        ("--config", "Expected a command first, got the option `--config`"),
    ],
)
def test_a_word_that_is_no_command_gets_the_nearest(word: str, message: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(message)) as stopped:
        main([word])
    assert str(stopped.value.code).startswith("llds: Expected ")
    assert "\n" not in str(stopped.value.code)


def test_help_of_light_commands_imports_no_library_of_training() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from llds.cli import main\n"
        "for name in [None, *sys.argv[1:]]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):\n"
        "        main([name, '--help'] if name else ['--help'])\n"
        "    heavy = {'torch', 'transformers', 'lightning', 'chromadb', 'bokeh'} & set(sys.modules)\n"
        "    assert not heavy, (name, heavy)\n"
        "    text = shown.getvalue()\n"
        "    assert name is None or text.startswith(f'usage: llds {name} '), text\n"
        "    assert name is None or text.partition('examples:')[2].count('\\n  llds ') >= 2, name\n"
    )
    subprocess.run([sys.executable, "-c", code, *LIGHT], check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.nightly
def test_help_with_stand_ins_is_the_help_without() -> None:
    with_stand_ins, without = (
        subprocess.run(
            [sys.executable, "-c", f"import sys; from llds.cli import main; {call}"],
            capture_output=True, text=True, timeout=300, check=True,
        ).stdout
        for call in ("sys.argv = ['llds', 'fit', '--help']; main()", "main(['fit', '--help'])")
    )  # fmt: skip
    assert with_stand_ins == without
    assert "examples:\n  llds fit -c" in without


def test_commands_that_read_the_retriever_take_the_keys_of_the_callback() -> None:
    ours, theirs = (inspect.signature(one).parameters for one in (RetrievalKeys, RetrievalCallback))
    assert ours == theirs


def test_nothing_points_to_a_script_that_is_a_command_now() -> None:
    assert [str(path) for path in TEXTS + SOURCES if re.search(rf"\b({MOVED})\.py", path.read_text())] == []


def test_no_message_of_the_package_names_a_script_of_a_clone() -> None:
    own = {"monitor/signals.py"}  # the page that it writes says how it was written
    lines = [
        f"{path.relative_to(ROOT / 'llds')}: {line.strip()}"
        for path in SOURCES
        for line in path.read_text().splitlines()
        if re.search(r"\b(python|bash) tools/", line)
    ]
    assert [line for line in lines if line.partition(":")[0] not in own] == []
