"""Every module imports with the base install alone: everything else on this machine is hidden."""

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OPTIONAL = {"deepspeed", "vllm", "trl", "verl", "pyworldatlas", "pytest", "mypy"}
FOR_AN_EXTRA = {"llds.integrations.trl"}
"""Modules that are a part of what an extra brings: a class of theirs is derived from."""

HIDE_AND_IMPORT = """
import importlib, sys
from importlib.machinery import PathFinder
from packaging.utils import canonicalize_name

hidden, modules, base = set(sys.argv[1].split(",")), sys.argv[2].split(","), set(sys.argv[3].split(","))

class BaseInstallFinder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *args, **kwargs):  # libraries ask for the metadata before they import
        found = super().find_distributions(*args, **kwargs)
        return (one for one in found if canonicalize_name(one.metadata["Name"]) in base)

sys.meta_path = [BaseInstallFinder if finder is PathFinder else finder for finder in sys.meta_path]
for name in sorted(hidden & {"pytest", "deepspeed", "vllm"}):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} is not hidden")
failures = []
for module in modules:
    try:
        importlib.import_module(module)
    except Exception as error:
        failures.append(f"{module}: {type(error).__name__}: {error}")
heavy = sorted({"vllm", "deepspeed"} & {name.partition(".")[0] for name in sys.modules})
print("\\n".join(failures + [f"{name} was imported" for name in heavy]))
"""


def base_install() -> set[str]:
    """Names of the distributions that the dependencies of ``pyproject.toml`` bring, without its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting, found = [Requirement(line) for line in project["dependencies"]], set[str]()
    seen = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            needs = distribution(requirement.name).requires or []
        except PackageNotFoundError:  # for another platform, or the missing package that the test is about to show
            continue
        found.add(key[0])
        for need in map(Requirement, needs):
            environments = [{"extra": extra} for extra in ("", *requirement.extras)]
            if need.marker is None or any(need.marker.evaluate(environment) for environment in environments):
                waiting.append(need)
    return found


def hidden_packages() -> set[str]:
    """Top-level names that are importable here and would not be after the base install."""
    base = base_install()
    owners = packages_distributions().items()
    extra = {name for name, owned_by in owners if not base & {canonicalize_name(owner) for owner in owned_by}}
    return (extra | OPTIONAL) - {"llds"}


def test_the_base_install_is_what_it_should_be() -> None:
    base = base_install()
    assert {"torch", "lightning", "transformers", "jsonargparse", "chromadb", "pyarrow"} <= base
    assert not OPTIONAL & base


@pytest.mark.slow
def test_every_module_imports_with_the_base_install_alone() -> None:
    files = sorted((ROOT / "llds").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    names = sorted(set(names) - FOR_AN_EXTRA)
    assert len(names) > 10
    lists = (",".join(sorted(one)) for one in (hidden_packages(), names, base_install() | {"llds"}))
    command = [sys.executable, "-c", HIDE_AND_IMPORT, *lists]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", done.stdout
