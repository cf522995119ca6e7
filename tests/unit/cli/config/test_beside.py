"""What a configuration names beside itself is found from any folder, and nothing else is touched."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llds.cli.config.beside import (
    files_beside,
    path_beside,
    with_lasting_paths,
    with_paths_beside,
)
from llds.cli.config.own_classes import check_import_from, import_beside, import_folders
from llds.errors import ConfigurationError
from llds.paths import lasting_path, resolve_path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a data file, a model, a word's file and a folder of logs; the test works in another one."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    here, elsewhere = tmp_path / "it's here", tmp_path / "elsewhere"
    for path in (
        here / "model" / "config.json",
        here / "index" / "manifest.json",
        here / "data" / "train.jsonl",
        here / "token",
        here / "csv" / "x.csv",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return here


FOUND = {"data/train.jsonl", "./token", "./data/../token", "model", "index"}
LEFT = {"token", "csv", "csv/", "data", "other.jsonl", "llds:quickstart/train.jsonl", "${root}/train.jsonl", "", "~"}


@pytest.mark.parametrize("text", sorted(FOUND | LEFT))
def test_a_path_is_beside_a_file_where_it_names_something_to_read(text: str, folder: Path) -> None:
    found = path_beside(text, folder)
    assert found == (folder / text if text in FOUND else None)


def test_a_text_that_no_file_can_have_for_a_name_stays_a_text(folder: Path) -> None:
    assert path_beside("a." * 5000, folder) is None
    assert path_beside("a/\0", folder) is None


def test_only_values_that_name_something_change_and_all_else_stays_to_the_letter(folder: Path) -> None:
    text = (
        "a: data/train.jsonl # a comment\n"
        "data/train.jsonl: 1e-5\n"
        "b: [&x './token', *x, token, \"model\"]\n"
        "c: {path: data/train.jsonl, name: csv, quoted: '1e-5'}\n"
        "d: ${trainer.root}\n"
    )
    train, token, model = ("'" + str(folder / one).replace("'", "''") + "'" for one in FOUND_IN_ORDER)
    expected = (
        f"a: {train} # a comment\n"
        "data/train.jsonl: 1e-5\n"
        f"b: [&x {token}, *x, token, {model}]\n"
        f"c: {{path: {train}, name: csv, quoted: '1e-5'}}\n"
        "d: ${trainer.root}\n"
    )
    assert with_paths_beside(text, folder) == expected
    assert yaml.safe_load(expected)["b"][:2] == [str(folder / "token")] * 2


FOUND_IN_ORDER = ("data/train.jsonl", "token", "model")


def test_what_ships_is_named_as_such_and_not_by_where_it_is_installed() -> None:
    file = resolve_path("llds:conf/agents/calculator.yaml")
    assert "train: 'llds:conf/agents/arithmetic.jsonl' #" in with_paths_beside(file.read_text(), file.parent)
    assert lasting_path(resolve_path("llds:quickstart/policy")) == "llds:quickstart/policy"


def test_all_that_a_configuration_needs_from_beside_it_is_listed() -> None:
    file = resolve_path("llds:conf/agents/calculator.yaml")
    assert [path.name for path in files_beside(file)] == ["arithmetic.jsonl", "calculator.py"]
    assert files_beside(resolve_path("llds:conf/quickstart.yaml")) == []


def with_class(folder: Path, module: str) -> tuple[Path, dict[str, Any]]:
    """A configuration that names a class of a module beside it."""
    (folder / f"{module}.py").write_text("class Agent:\n    pass\n")
    return folder / "mine.yaml", {"model": {"class_path": f"{module}.Agent"}}


def test_a_class_beside_a_configuration_can_be_imported_and_its_folder_is_remembered(folder: Path) -> None:
    file, values = with_class(folder, "own_agent_beside")
    import_beside(values, file)
    __import__("own_agent_beside")
    assert import_folders(values) == [str(folder)]
    assert (
        import_folders({"x": {"class_path": "torch.nn.Linear", "y": "llds.losses.GRPOLoss", "z": "json.loads"}}) == []
    )


def test_a_package_beside_a_configuration_can_be_imported_too(folder: Path) -> None:
    (folder / "own_package").mkdir()
    (folder / "own_package" / "__init__.py").write_text("")
    (folder / "own_package" / "agents.py").write_text("class Agent:\n    pass\n")
    values = {"model": "own_package.agents.Agent"}
    import_beside(values, folder / "mine.yaml")
    __import__("own_package.agents")
    assert import_folders(values) == [str(folder)]


def test_a_class_beside_a_configuration_that_another_module_hides_is_refused(folder: Path) -> None:
    file, values = with_class(folder, "shlex")
    with pytest.raises(ConfigurationError, match=r"Expected `shlex` in .* to be .*here/shlex.py.*, got .*shlex.py"):
        import_beside(values, file)


def test_folders_to_import_from_are_relative_to_the_file_and_must_exist(folder: Path) -> None:
    text = with_paths_beside("import_from: [data]\n", folder)
    import_beside(yaml.safe_load(text), folder / "mine.yaml")
    assert str(folder / "data") in sys.path
    check_import_from(yaml.safe_load(text)["import_from"])
    missing = yaml.safe_load(with_paths_beside("import_from: [nowhere]\n", folder))
    with pytest.raises(ConfigurationError, match=r"Expected `import_from` to name folders, got .*nowhere"):
        import_beside(missing, folder / "mine.yaml")


def test_folders_to_import_from_that_come_too_late_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="in a configuration file, got late on the command line"):
        check_import_from(["late"])


def test_a_saved_configuration_holds_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    values = {
        "a": ["data/train.jsonl", "token", "./csv", 3],
        "b": {"policy": "model", "new": "runs/new", "name": "csv"},
    }
    assert with_lasting_paths(values) == {
        "a": [str(folder / "data/train.jsonl"), "token", str(folder / "csv"), 3],
        "b": {"policy": str(folder / "model"), "new": "runs/new", "name": "csv"},
    }
