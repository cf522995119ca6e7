"""Every configuration file parses and instantiates, alone and under every overlay, and says no more than it means."""

import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import llds.losses
from llds.agent_tools import AgentTool, CalculatorTool
from llds.cli.config.accepted import import_object
from llds.cli.training.command import SearchAgentCLI, build_cli
from llds.data import PromptDataModule
from llds.errors import ConfigurationError
from llds.losses import Advantages, GRPOLoss, GSPOLoss, LLDSPenalty, Loss, NegativeWeight, Selection
from llds.modules import SearchAgentModule

ROOT = Path(__file__).parents[2]
BASE, QUICKSTART = ROOT / "conf" / "base.yaml", ROOT / "conf" / "quickstart.yaml"
OVERLAYS = sorted((ROOT / "conf" / "ablations").glob("*.yaml"))
QUICK = {"no_llds", "gspo_llds"}
"""Overlays that the quick suite builds, too."""
POLICY = ("--model.policy", "llds:quickstart/policy")
OVERRIDE = (*POLICY, "--model.optimization.learning_rate", "3e-5")
FOLDERS = {"trainer.default_root_dir", "trainer.logger.0.init_args.save_dir", "trainer.logger.1.init_args.save_dir"}
LLDS = "model.init_args.llds_penalty"
MODEL = "model.init_args"

CHANGES: dict[str, dict[str, Any]] = {
    "no_llds": {LLDS: None},
    "token_gate": {f"{LLDS}.init_args.gate": "token"},
    "response_gate": {f"{LLDS}.init_args.gate": "response"},
    "positive_only": {f"{LLDS}.init_args.preserve": "positive"},
    "lambda_0.01": {f"{LLDS}.init_args.coefficient": 0.01},
    "lagged_anchor": {f"{LLDS}.init_args.anchor": "lagged"},
    "llds_ma": {f"{LLDS}.init_args.answer_masking.class_path": "llds.losses.AnswerMasking"},
    "no_kl": {f"{MODEL}.kl_penalty": None},
    "gspo": {f"{MODEL}.policy_loss.class_path": "llds.losses.GSPOLoss", LLDS: None},
    "gspo_llds": {f"{MODEL}.policy_loss.class_path": "llds.losses.GSPOLoss"},
    "authors_normalisation": {
        f"{MODEL}.policy_loss.init_args.aggregation": "token",
        f"{MODEL}.kl_penalty.init_args.aggregation": "token",
        f"{LLDS}.init_args.aggregation": "token",
    },
}
"""What each overlay changes; a key that is swapped as a whole stands for all below it."""

PAPER: dict[str, Any] = {
    f"{MODEL}.optimization.warmup_ratio": 0.285,
    f"{MODEL}.optimization.mini_batch_size": 64,
    f"{MODEL}.optimization.micro_batch_size": 64,
    "data.init_args.batch_size": 512,
    "data.init_args.iterations": 1000,
}
"""Where base.yaml follows the paper and not the default of a constructor."""


def build(*args: Any) -> SearchAgentCLI:
    """Build module, data module, callbacks and trainer as `llds fit` does, without running."""
    return build_cli([str(arg) for arg in args], run=False)


def resolved(cli: SearchAgentCLI) -> dict[str, Any]:
    """What was parsed, flat: dotted key to value."""
    return flat(yaml.safe_load(cli.parser.dump(cli.config, skip_unset=False)))


@cache
def alone(*args: Any) -> dict[str, Any]:
    """What a recipe says by itself, parsed once; not to be changed."""
    return resolved(build(*args))


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings and lists of mappings as dotted keys."""
    if isinstance(value, dict) and value:
        return {k: v for name, one in value.items() for k, v in flat(one, f"{key}.{name}".lstrip(".")).items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {k: v for number, one in enumerate(value) for k, v in flat(one, f"{key}.{number}").items()}
    return {key: value}


def difference(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Keys whose value differs, or that only one side has."""
    missing = object()
    return {key for key in before.keys() | after.keys() if before.get(key, missing) != after.get(key, missing)}


# On the quickstart, test_conf_files.py builds each of them too.
@pytest.fixture(params=[BASE, pytest.param(QUICKSTART, marks=pytest.mark.slow)], ids=["base", "quickstart"])
def recipe(request: pytest.FixtureRequest) -> tuple[Path, dict[str, Any]]:
    """A recipe's file and what it says by itself."""
    return request.param, alone("-c", request.param, *OVERRIDE)


@pytest.mark.parametrize(
    "overlay",
    [
        pytest.param(path, marks=pytest.mark.slow if path.stem not in ("no_llds", "gspo_llds") else ())
        for path in OVERLAYS
    ],
    ids=lambda path: path.stem,
)
def test_every_overlay_on_every_recipe_instantiates_and_changes_what_it_says_and_nothing_else(
    recipe: tuple[Path, dict[str, Any]], overlay: Path
) -> None:
    cli = build("-c", recipe[0], "-c", overlay, *OVERRIDE)
    assert isinstance(cli.model, SearchAgentModule)
    assert cli.model.optimization.learning_rate == 3e-5
    before, after, expected = recipe[1], resolved(cli), CHANGES[overlay.stem]
    assert {key: after[key] for key in expected} == expected
    assert {after[key] for key in FOLDERS} == {f"runs/{overlay.stem}"}
    swapped = tuple(key.removesuffix(".class_path") for key in expected if expected[key] is None or "class" in key)
    changed = difference(before, after) - FOLDERS
    assert {key for key in changed if not key.startswith(swapped or ("-",))} <= expected.keys()


SAMPLERS = sorted((ROOT / "conf" / "rollout").glob("vllm*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("overlay", SAMPLERS, ids=lambda path: path.stem)
def test_every_overlay_of_a_sampler_swaps_the_sampler_and_says_how_to_run_it(overlay: Path) -> None:
    here = ("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32-true")
    cli = build("-c", QUICKSTART, "-c", overlay, *here)
    sampler = "rollout.sampler"
    before, after = alone("-c", QUICKSTART, *here), resolved(cli)
    assert after[f"{sampler}.class_path"].startswith("llds.samplers.VLLM")
    assert {key for key in difference(before, after) if not key.startswith(sampler)} == set()
    first = overlay.read_text().splitlines()[0]
    assert first.startswith("# llds fit -c llds:")
    assert f"-c llds:rollout/{overlay.stem}" in first


def test_there_is_an_overlay_for_every_ablation_of_the_method() -> None:
    assert {path.stem for path in OVERLAYS} == CHANGES.keys()


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_is_short_and_says_how_to_run_it_and_what_it_tests(overlay: Path) -> None:
    lines = overlay.read_text().splitlines()
    assert len(lines) <= 15
    assert lines[0] == f"# llds fit -c llds:quickstart -c llds:ablations/{overlay.stem}"
    assert lines[1].startswith("# Hypothesis: ")
    assert "callbacks" not in overlay.read_text()


def test_base_names_every_setting_of_every_class_of_llds() -> None:
    written = flat(yaml.safe_load(BASE.read_text()))
    parsed = resolved(build("-c", BASE, *POLICY))
    ours = {key for key in parsed if not key.startswith("trainer.") or key.startswith("trainer.callbacks.")}
    assert ours - written.keys() == set()
    assert written.keys() - parsed.keys() == set()


@pytest.mark.slow
def test_base_holds_the_defaults_but_for_the_values_of_the_paper(tmp_path: Path) -> None:
    """The same classes, and no arguments but those that have no default."""
    values = yaml.safe_load(BASE.read_text())
    bare = tmp_path / "bare.yaml"
    bare.write_text(yaml.safe_dump(classes_only(values)))
    needed = ("--retrieval.retriever.path", "x", "--retrieval.retriever.corpus", "x")
    base, defaults = resolved(build("-c", BASE, *POLICY)), resolved(build("-c", bare, *POLICY, *needed))
    changed = {key: base[key] for key in difference(defaults, base) & base.keys()}
    assert {key: value for key, value in changed.items() if not key.startswith(("trainer", "retrieval"))} == PAPER


def classes_only(value: Any) -> Any:
    """A configuration with the same classes and nothing else."""
    if isinstance(value, list):
        return [classes_only(one) for one in value]
    inner = {name: classes_only(one) for name, one in value.items() if name != "trainer" and holds_class(one)}
    return inner | {name: one for name, one in value.items() if name == "class_path"}


def holds_class(value: Any) -> bool:
    """Whether a class is named anywhere in it."""
    if isinstance(value, list):
        return any(holds_class(one) for one in value)
    return isinstance(value, dict) and ("class_path" in value or any(holds_class(one) for one in value.values()))


def test_the_command_line_wins_over_files_and_the_last_file_over_the_first(tmp_path: Path) -> None:
    late = tmp_path / "late.yaml"
    late.write_text("rollout: {group_size: 6}\ndata: {init_args: {batch_size: 36}}\n")
    cli = build("-c", QUICKSTART, "-c", late, "--data.batch_size", "12", "--model.optimization.learning_rate", "1e-5")
    assert isinstance(cli.model, SearchAgentModule)
    assert isinstance(cli.datamodule, PromptDataModule)
    assert cli.config.rollout.group_size == 6
    assert cli.datamodule.batch_size == 12
    assert cli.model.optimization.learning_rate == 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("where", ["file", "command line"])
def test_loggers_follow_the_folder_of_the_run(where: str, tmp_path: Path) -> None:
    late = tmp_path / "late.yaml"
    late.write_text("trainer: {default_root_dir: runs/elsewhere}\n")
    override = ("-c", late) if where == "file" else ("--trainer.default_root_dir", "runs/elsewhere")
    cli = build("-c", QUICKSTART, *override)
    assert {logger.save_dir for logger in cli.trainer.loggers} == {"runs/elsewhere"}


class ComputingAgent(SearchAgentModule):
    """An agent that brings a tool itself."""

    def configure_agent_tools(self) -> list[AgentTool]:
        """The tools of the configuration, and the calculator."""
        return [*super().configure_agent_tools(), CalculatorTool()]


@pytest.mark.slow
def test_another_class_of_module_keeps_the_arguments() -> None:
    before = build("-c", QUICKSTART).config.model.init_args
    cli = build("-c", QUICKSTART, "--model.class_path", f"{__name__}.ComputingAgent")
    assert cli.config.model.init_args == before
    assert [tool.name for tool in cli.model.agent_tools] == ["search", "calculate"]  # type: ignore[union-attr]


@pytest.mark.slow
def test_another_class_of_loss_takes_its_own_arguments_from_the_overlay() -> None:
    cli = build("-c", QUICKSTART, "-c", ROOT / "conf" / "ablations" / "gspo_llds.yaml")
    assert isinstance(cli.model, SearchAgentModule)
    loss = cli.model.objective.policy_loss
    assert isinstance(loss, GSPOLoss)
    assert (loss.clip_low, loss.clip_high) == (0.0003, 0.0004)


@pytest.mark.slow
def test_a_callback_is_added_to_the_list_and_the_list_stays(tmp_path: Path) -> None:
    late = tmp_path / "late.yaml"
    late.write_text("trainer: {callbacks+: [{class_path: lightning.pytorch.callbacks.LearningRateMonitor}]}\n")
    before, after = build("-c", QUICKSTART), build("-c", QUICKSTART, "-c", late)
    assert len(after.config.trainer.callbacks) == len(before.config.trainer.callbacks) + 1


GUARDS = sorted((ROOT / "conf" / "collapse").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("overlay", GUARDS, ids=lambda path: path.stem)
def test_every_overlay_of_the_monitor_fits_every_recipe_and_changes_the_monitor_alone(
    recipe: tuple[Path, dict[str, Any]], overlay: Path
) -> None:
    after = resolved(build("-c", recipe[0], "-c", overlay, *OVERRIDE))
    changed = difference(recipe[1], after)
    assert {key for key in changed if not key.startswith("collapse.ladder")} == set()
    if recipe[0] == BASE:  # which spells the default out
        assert bool(changed) == (overlay.stem != "warn")


def test_there_is_an_overlay_that_only_warns_one_that_acts_early_and_one_with_the_whole_ladder() -> None:
    assert {path.stem for path in GUARDS} == {"warn", "early", "protect"}


TRAINERS = sorted((ROOT / "conf" / "trainer").glob("*.yaml"))
ON_THIS_MACHINE = ("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "1")


@pytest.mark.slow
@pytest.mark.parametrize("overlay", TRAINERS, ids=lambda path: path.stem)
def test_every_overlay_of_the_trainer_instantiates_and_changes_where_and_not_what(overlay: Path) -> None:
    if "ZeRO3" in overlay.read_text():
        pytest.importorskip("deepspeed")
    before = alone("-c", BASE, *OVERRIDE)
    after = resolved(build("-c", BASE, "-c", overlay, *OVERRIDE, *ON_THIS_MACHINE))
    changed = {key for key in difference(before, after) if not key.startswith("trainer.")}
    assert changed <= {f"{MODEL}.gradient_checkpointing"}
    assert f"-c llds:trainer/{overlay.stem}" in overlay.read_text().splitlines()[0]


def test_there_is_an_overlay_for_one_machine_several_and_none_with_gpus() -> None:
    assert {path.stem for path in TRAINERS} == {"cpu", "cpu_zero3", "ddp", "zero3_8gpu", "zero3_multinode"}


METHODS = sorted((ROOT / "conf" / "objectives").rglob("*.yaml"))


def made(value: Any) -> Any:
    """What a value of a configuration stands for: an instance where it names a class."""
    if isinstance(value, list):
        return [made(one) for one in value]
    if isinstance(value, dict) and "class_path" in value:
        return import_object(value["class_path"])(
            **{name: made(one) for name, one in value.get("init_args", {}).items()}
        )
    return value


@pytest.mark.parametrize("overlay", METHODS, ids=lambda path: path.stem)
def test_an_overlay_of_a_method_is_short_names_its_command_and_makes_its_classes(overlay: Path) -> None:
    lines = overlay.read_text().splitlines()
    name = f"{overlay.parent.name}/{overlay.stem}"
    assert len(lines) <= 15
    assert lines[0].startswith("# llds fit -c llds:quickstart ")
    assert lines[0].endswith(f" -c llds:objectives/{name}")
    assert lines[1].startswith("# Hypothesis: ")
    values = yaml.safe_load(overlay.read_text())
    assert values["trainer"] == {"default_root_dir": f"runs/{overlay.stem}"}
    arguments = values["model"]["init_args"]
    kinds = {"advantages": Advantages, "policy_loss": Loss, "terms": list, "selections": list}
    for key, value in arguments.items():
        if "init_args" in (value if isinstance(value, dict) else {}) and "class_path" not in value:
            default = {"policy_loss": GRPOLoss, "llds_penalty": LLDSPenalty}[key]
            default(**value["init_args"])  # of the recipe's class
        elif key in kinds:
            assert isinstance(made(value), kinds[key])
        else:
            assert (key, value) == ("advantage_scale", "none")


def test_every_room_of_methods_is_small_and_every_method_has_an_overlay() -> None:
    rooms = [path for path in (ROOT / "conf" / "objectives").iterdir() if path.is_dir()]
    assert {path.name for path in rooms} == {"advantages", "losses", "terms", "selections"}
    assert all(len(list(path.iterdir())) <= 14 for path in rooms)
    named = {
        path.split(".")[-1] for overlay in METHODS for path in re.findall(r"llds\.losses\.\w+", overlay.read_text())
    }
    kinds = (Advantages, Loss, Selection)
    classes = {
        name
        for name, value in vars(llds.losses).items()
        if inspect.isclass(value) and issubclass(value, kinds) and not inspect.isabstract(value)
    }
    elsewhere = {"GSPOLoss", "KLPenalty", "LLDSPenalty", "ImportanceCorrection"}
    assert classes - elsewhere == named


@pytest.mark.slow
def test_a_new_loss_takes_no_setting_of_the_old_one() -> None:
    overlay = ("-c", QUICKSTART, "-c", ROOT / "conf" / "objectives" / "losses" / "ipo.yaml")
    assert build(*overlay).model.objective.policy_loss.aggregation == "token"
    flags = ("--model.policy_loss.clip_high", "0.3", "--model.policy_loss", "llds.losses.CISPOLoss")
    with pytest.raises(ConfigurationError, match="clip_high"):
        build("-c", QUICKSTART, *flags)  # CISPO has none
    loss = build("-c", QUICKSTART, "--model.policy_loss=llds.losses.GSPOLoss", "--model.policy_loss.clip_low", "0.1")
    assert vars(loss.model.objective.policy_loss) == vars(GSPOLoss(clip_low=0.1))


@pytest.mark.slow
def test_a_method_of_each_room_goes_with_the_others_and_with_llds() -> None:
    names = ("advantages/negative_weight", "losses/cispo", "terms/echo", "selections/void_turns")
    cli = build("-c", QUICKSTART, *(f for name in names for f in ("-c", ROOT / "conf" / "objectives" / f"{name}.yaml")))
    assert isinstance(cli.model, SearchAgentModule)
    assert isinstance(cli.model.advantages, NegativeWeight)
    assert list(cli.model.objective.terms) == ["policy", "kl", "llds", "observation_nll"]
    assert [type(one).__name__ for one in cli.model.objective.selections] == ["VoidTurns"]
