"""Files beside the code say the same as the code: hooks and CI, versions, forms for issues."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_every_check_of_ci_before_the_tests_is_a_hook() -> None:
    command = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    checks = [part.strip() for part in command.split("&&")[1:] if not part.strip().startswith("pytest")]
    assert len(checks) == 4
    [local] = [repo for repo in load(".pre-commit-config.yaml")["repos"] if repo["repo"] == "local"]
    hooks = [hook["entry"].split() for hook in local["hooks"]]
    for check in checks:  # "ruff check .": the tool and its subcommand, of which a hook may have more options
        words = [word for word in check.split() if word.isalpha()]
        assert any(hook[: len(words)] == words for hook in hooks), check


def test_the_hook_takes_every_yaml_file_that_it_looks_at() -> None:
    hooks = load(".pre-commit-config.yaml")
    [check] = [hook for repo in hooks["repos"] for hook in repo["hooks"] if hook["id"] == "check-yaml"]
    left_out = re.compile(f"{hooks['exclude']}|{check['exclude']}")
    files = [path for folder in ("conf", ".github", "tools") for path in (ROOT / folder).rglob("*.y*ml")]
    seen = [path for path in files if not left_out.search(path.relative_to(ROOT).as_posix())]
    assert len(seen) > 90
    for path in seen:
        yaml.load(path.read_text(), Loader=yaml.CSafeLoader)


def test_the_workflow_runs_what_a_developer_runs() -> None:
    [job] = load(".github/workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]


@pytest.mark.slow
def test_the_site_has_every_page_and_no_link_that_leads_nowhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ".github/mkdocs.yml", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {path.with_suffix("").name for path in (ROOT / "docs").glob("*.md")} <= {
        one.stem for one in tmp_path.iterdir()
    }


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = load("CITATION.cff")
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert "2512.04220" in citation["preferred-citation"]["url"]


def test_forms_ask_for_the_diagnosis_the_versions_and_the_configuration() -> None:
    for form in ("bug", "collapse"):
        body = load(f".github/ISSUE_TEMPLATE/{form}.yml")["body"]
        assert {"diagnosis", "versions", "config"} <= {one["id"] for one in body}
        [asked] = [one["attributes"]["label"] for one in body if one["id"] == "diagnosis"]
        assert asked.startswith("llds diagnose --json")


def test_every_key_that_other_frameworks_settings_are_called_here_exists() -> None:
    rows = [line.split("|") for line in (ROOT / "docs/coming_from.md").read_text().splitlines()]
    said = {
        key
        for row in rows
        if len(row) == 4
        for key in re.findall(r"`((?:model|data|rollout|retrieval)\.[\w.]+)", row[2])
    }
    assert len(said) > 30
    base = load("conf/base.yaml")
    for key in said:
        found = base
        for name in key.split("."):
            found = found.get("init_args", found) if name not in found else found
            assert name in found, key
            found = found[name]


def names_of(heading: str) -> set[str]:
    """Settings of another framework, and their values, in a table of the page; older names in brackets are left out."""
    table = (ROOT / "docs/coming_from.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [re.sub(r"\(.*?\)", "", line.split("|")[1]) for line in table.splitlines() if line.startswith("|")]
    quoted = [name for cell in cells if "Search-R1" not in cell for name in re.findall(r"`([^`]+)`", cell)]
    return {word for name in quoted for word in re.findall(r"[\w-]+", name) if word not in {"false", "true", "None"}}


def text_of(package: str, pattern: str) -> str:
    """Files of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    return "\n".join(path.read_text() for path in sorted(Path(found.origin).parent.glob(pattern)))


def test_settings_of_trl_that_the_page_names_exist() -> None:
    text = text_of("trl", "trainer/grpo_*.py") + text_of("transformers", "training_args.py")
    names = names_of("TRL's GRPOTrainer")
    assert len(names) > 30
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


def test_settings_of_verl_that_the_page_names_exist() -> None:
    text = text_of("verl", "trainer/config/**/*.yaml")
    names = names_of("verl and Search-R1")
    assert len(names) > 30
    assert {name for name in names if not re.search(rf"(?<![\w-]){name}\b", text)} == set()
