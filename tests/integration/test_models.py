"""Families of models, each tried whole, and the page that says so; models by name, from a hub to a resumed run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.hub import Repository, serving_hub
from tests.runs import tiny_policy
from tools.model_table import BEGIN, END, FAMILIES, PAGE, Family, examine

pytestmark = pytest.mark.slow

ROWS = PAGE.read_text().split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_works_or_is_refused_as_the_page_says(family: Family) -> None:
    assert examine(family).row(family) in ROWS


def test_the_page_has_the_families_of_the_tool_and_no_other() -> None:
    assert [row.split(" | ")[0].removeprefix("| ") for row in ROWS] == [family.name for family in FAMILIES]


def test_a_run_by_name_goes_on_with_the_commit_that_it_began_with(tmp_path: Path) -> None:
    served = Repository.of(Path(tiny_policy()))
    begun_with = served.commit
    run = (
        *("fit", "-c", "llds:quickstart", "--model.policy", "Org/Tiny", "--rollout.limits.turns", "0"),
        *("--model.agent_tools", "null", "--retrieval.retriever", "null"),
        *("--data.batch_size", "2", "--model.optimization.mini_batch_size", "1", "--rollout.group_size", "2"),
        *("--trainer.default_root_dir", str(tmp_path / "run")),
    )
    with serving_hub({("model", "Org/Tiny"): served}) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

        def llds(*words: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "llds", *words], env=environment, cwd=tmp_path, capture_output=True, text=True,
                timeout=240, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
            return done.stdout + done.stderr

        assert f"`model.policy` is Org/Tiny@{begun_with}" in llds(*run, "--data.iterations", "1")
        served.files["config.json"] = served.files["config.json"].replace(
            b'"hidden_act": "silu"', b'"hidden_act": "gelu"'
        )
        assert served.commit != begun_with
        llds(*run, "--data.iterations", "2", "--ckpt_path", "last")
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["model"]["init_args"]["policy"] == f"Org/Tiny@{begun_with}"
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()
