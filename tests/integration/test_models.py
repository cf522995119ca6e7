"""Families of models, each tried whole, and the page that says so; models by name, from a hub to a resumed run."""

import json
from pathlib import Path

import pytest
import yaml

from llds.cli.training.command import build_cli
from tests.hub import Repository, serving_hub, use_hub
from tests.runs import tiny_policy
from tools.model_table import BEGIN, END, FAMILIES, PAGE, Family, examine

pytestmark = pytest.mark.slow

ROWS = PAGE.read_text().split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_works_or_is_refused_as_the_page_says(family: Family) -> None:
    assert examine(family).row(family) in ROWS


def test_the_page_has_the_families_of_the_tool_and_no_other() -> None:
    assert [row.split(" | ")[0].removeprefix("| ") for row in ROWS] == [family.name for family in FAMILIES]


def test_a_run_by_name_goes_on_with_the_commit_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served = Repository.of(Path(tiny_policy()))
    begun_with = served.commit
    run = [
        *("fit", "-c", "llds:quickstart", "--model.policy", "Org/Tiny", "--rollout.limits.turns", "0"),
        *("--model.agent_tools", "null", "--retrieval.retriever", "null"),
        *("--data.batch_size", "2", "--model.optimization.mini_batch_size", "1", "--rollout.group_size", "2"),
        *("--trainer.default_root_dir", str(tmp_path / "run")),
    ]
    with serving_hub({("model", "Org/Tiny"): served}) as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "cache")
        build_cli([*run, "--data.iterations", "1"])
        assert f"`model.policy` is Org/Tiny@{begun_with}" in caplog.text
        assert "an export loads" in caplog.text
        served.files["config.json"] = served.files["config.json"].replace(b'"silu"', b'"gelu"')
        assert served.commit != begun_with
        use_hub(monkeypatch, hub.url, tmp_path / "cache")  # a new process knows of no commit
        build_cli([*run, "--data.iterations", "2", "--ckpt_path", "last"])
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["model"]["init_args"]["policy"] == f"Org/Tiny@{begun_with}"
    assert json.loads((tmp_path / "run" / "policy" / "config.json").read_text())["hidden_act"] == "silu"
