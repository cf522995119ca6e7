"""Imports go one way, and each heavy dependency is known to one file."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "llds").rglob("*.py"))
# From the bottom to the top; a package may import from lower layers and from itself. Packages that share a layer do not
# know each other.
LAYERS: list[set[str]] = [
    {"types", "errors", "paths", "dtypes"},
    {"files", "alerts"},
    {"losses", "rewards", "metrics", "monitor"},
    {"retrieval", "evaluation", "strategies", "integrations", "trackio"},
    {"agent_tools", "samplers", "report"},
    {"rollout", "batches"},
    {"data"},
    {"modules"},
    {"probes"},
    {"callbacks"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer} | {"__version__": -1}
KNOWN_TO_ONE_FILE = (
    *("vllm", "chromadb", "deepspeed", "wordllama", "peft", "httpcore", "starlette", "uvicorn", "bm25s"),
    *("trl", "verl"),
)


def package_of(path: Path) -> str:
    """The package or module right below ``llds`` that a file belongs to."""
    return path.relative_to(ROOT / "llds").parts[0].removesuffix(".py")


@cache
def imported_names(source: str) -> list[str]:
    """Full names of all that is imported anywhere in a source, inside functions and for type checkers too."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names += [f"{base}.{alias.name}" for alias in node.names] if base == "llds" else [base]
    return names


def upward_imports(package: str, source: str) -> list[str]:
    """The imports of a source that do not go to a lower layer."""
    targets = {name: name.split(".")[1] for name in imported_names(source) if name.startswith("llds.")}
    assert package in RANK, f"Give {package} its place in LAYERS"
    wrong = [name for name, target in targets.items() if target != package and RANK[target] >= RANK[package]]
    return wrong + [name for name in imported_names(source) if name.startswith(".") or name in ("tests", "tools")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_from_lower_layers_only(path: Path) -> None:
    if path == ROOT / "llds" / "__init__.py":
        assert imported_names(path.read_text()) == []
    else:
        assert upward_imports(package_of(path), path.read_text()) == []


@pytest.mark.parametrize("name", KNOWN_TO_ONE_FILE)
def test_a_heavy_dependency_is_imported_in_one_file_at_most(name: str) -> None:
    users = [path for path in SOURCES if name in {full.split(".")[0] for full in imported_names(path.read_text())}]
    assert len(users) <= 1, users


ONLY_LINUX = ("/proc", "memfd_create", "sched_getaffinity", "prlimit", "import fcntl")
ASK_FOR_LINUX = {
    "callbacks/profile/peak_memory.py",  # another way where there is none
    "samplers/vllm/engine.py",  # which refuses other systems for all of samplers/vllm
    "samplers/vllm/weight_update.py",
    "samplers/vllm/server/supervisor.py",
}


def test_what_only_linux_has_is_used_where_other_systems_are_refused_or_have_another_way() -> None:
    package = ROOT / "llds"
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py")
             if any(word in path.read_text() for word in ONLY_LINUX)}  # fmt: skip
    assert found <= ASK_FOR_LINUX


def test_losses_rewards_and_metrics_need_neither_lightning_nor_transformers() -> None:
    for path in SOURCES:
        if package_of(path) in LAYERS[0] | LAYERS[1]:
            roots = {name.split(".")[0] for name in imported_names(path.read_text())}
            assert not roots & {"lightning", "transformers"}, path


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("losses", "from llds.data import PromptLoader"),
        ("data", "from llds.modules import Objective"),
        ("rollout", "def f():\n    import llds.callbacks.rollout.callback"),
        ("types", "if TYPE_CHECKING:\n    from llds.losses import x"),
        ("rewards", "from llds import metrics"),
        ("data", "from . import loader"),
        ("data", "import tools"),
    ],
)
def test_the_check_sees_an_import_that_goes_up(package: str, source: str) -> None:
    assert upward_imports(package, source)
    assert not upward_imports(package, "from llds.errors import DataError") or package == "types"
