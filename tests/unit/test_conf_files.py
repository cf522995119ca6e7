"""Every file in conf/ says how to run it, and that command is accepted: all keys, classes and values."""

import shlex
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from llds.cli.commands.configs import command
from llds.cli.training.command import SearchAgentCLI, build_cli
from llds.modules import SearchAgentModule

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml") if path.parts[-3] != "objectives")
"""All but the overlays of methods, whose classes `test_conf.py` makes without the command around them."""
RECIPES = ("conf/paper/search_r1_qwen2.5-3b.yaml", "conf/paper/search_r1_qwen2.5-7b.yaml")
SCALE = [path for path in FILES if path.parts[1] in ("trainer", "rollout")]
# What this machine has: a policy to take the tokenizer of, and one CPU. Everything else is as the files say.
HERE = (
    *("--model.policy", "llds:quickstart/policy"),
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "1"),
    *("--trainer.strategy", "auto"),
)


QUICK = {"conf/quickstart.yaml", "conf/rollout/overlap.yaml"}
"""Files that the quick suite builds, too; to build all of them, as their commands say, is slow."""


def marked(path: Path) -> Any:
    """A file as a parameter."""
    marks = [] if str(path) in QUICK else [pytest.mark.slow]
    if path.parts[1] == "logging":  # named after the package that it needs; MLflow's skinny one has no database
        needed = "sqlalchemy" if path.stem == "mlflow" else path.stem
        marks.append(pytest.mark.skipif(find_spec(needed) is None, reason=f"needs {needed}"))
    return pytest.param(path, marks=marks, id=str(path))


def name_of(path: Path) -> str:
    """What stands after ``-c`` for a file of conf/, in a clone and without one."""
    return f"llds:{path.relative_to('conf').as_posix().removesuffix('.yaml')}"


def command_of(path: Path) -> list[str]:
    """The words of the command that a file begins with."""
    return shlex.split(command((ROOT / path).read_text()))


def build(*files: str) -> SearchAgentCLI:
    """Build module, data module, callbacks and trainer as the command does, without running."""
    return build_cli([part for file in files for part in ("-c", str(ROOT / file))] + list(HERE), run=False)


@cache
def recipe_config() -> Any:
    """What the first recipe of the paper says."""
    return build(RECIPES[0]).config


def values(path: str) -> Any:
    """What a file says."""
    return yaml.safe_load((ROOT / path).read_text())


@pytest.mark.parametrize("path", [marked(path) for path in FILES])
def test_the_command_in_a_file_is_accepted_in_any_folder(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    llds, subcommand, *words = command_of(path)
    assert (llds, subcommand) in {("llds", "fit"), ("llds", "test")}
    assert name_of(path) in words
    assert isinstance(build_cli([*words, *HERE], run=False).model, SearchAgentModule)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_file_replaces_the_callbacks_but_a_whole_recipe(path: Path) -> None:
    trainer = values(str(path)).get("trainer") or {}
    assert "callbacks" not in trainer or command_of(path)[3] == name_of(path)


def test_the_two_recipes_of_the_paper_differ_in_model_and_answer_masking_only() -> None:
    small, large = (values(path) for path in RECIPES)
    assert large["model"]["init_args"]["policy"] == "models/Qwen2.5-7B"
    large["model"]["init_args"]["policy"] = "models/Qwen2.5-3B"
    large["trainer"]["default_root_dir"] = small["trainer"]["default_root_dir"]
    penalties = [recipe["model"]["init_args"]["llds_penalty"]["init_args"] for recipe in (small, large)]
    assert [bool(penalty.pop("answer_masking")) for penalty in penalties] == [True, False]
    assert small == large


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_of_the_paper_normalize_as_the_published_results(recipe: str) -> None:
    cli = build(recipe)
    assert isinstance(cli.model, SearchAgentModule)
    objective, optimization = cli.model.objective, cli.model.optimization
    terms = (objective.policy_loss, objective.kl_penalty, objective.llds_penalty)
    assert [term.aggregation for term in terms] == ["token"] * 3  # type: ignore[union-attr]
    rollout, data = cli.config.rollout, cli.config.data.init_args
    assert data.batch_size % optimization.mini_batch_size == 0
    assert data.batch_size // optimization.mini_batch_size == 2560 // 256  # steps per iteration, in the code
    assert abs(optimization.mini_batch_size * rollout.group_size - 256) <= 1
    assert optimization.warmup_ratio == 0.285
    assert (rollout.limits.turns, rollout.eval_limits.turns) == (3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("overlay", SCALE, ids=str)
def test_the_recipes_of_the_paper_take_every_overlay_of_scale_and_stay_what_they_are(overlay: Path) -> None:
    before, after = recipe_config(), build(RECIPES[0], str(overlay))
    assert after.config.data == before.data
    for key in ("optimization", "policy_loss", "kl_penalty", "llds_penalty"):
        assert after.config.model.init_args[key] == before.model.init_args[key]
    for key in ("group_size", "sampling", "limits", "eval_limits"):
        assert after.config.rollout[key] == before.rollout[key]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tools", "opening", "turns"),
    [("direct", 0, False, 0), ("rag", 0, True, 0), ("search_r1", 1, False, 4)],
)
def test_a_baseline_has_the_tools_that_its_name_says(name: str, tools: int, opening: bool, turns: int) -> None:
    cli = build("conf/base.yaml", "conf/eval/benchmarks.yaml", f"conf/baselines/{name}.yaml")
    assert isinstance(cli.model, SearchAgentModule)
    assert len(cli.model.agent_tools) == tools
    assert (cli.model.opening_tool is not None) == opening
    assert cli.config.data.init_args.template.text.count("{observation}") == opening
    assert cli.config.rollout.eval_limits.turns == turns
    assert (cli.config.retrieval.retriever is None) == (name == "direct")


@pytest.mark.slow
def test_benchmarks_are_the_seven_of_the_papers_below_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "HERE", (*HERE, "--data_root", "elsewhere"))
    cli = build("conf/base.yaml", "conf/eval/benchmarks.yaml")
    sources = cli.config.data.init_args.test
    names = ["nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle"]
    assert [source.name for source in sources] == names
    assert all(source.path.startswith(f"elsewhere/{name}/") for source, name in zip(sources, names, strict=True))
