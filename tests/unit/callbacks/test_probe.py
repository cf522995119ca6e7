"""The probe in real trainings: what it writes, that it leaves no trace in the run, and what its settings mean."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from llds.callbacks import LLDProbe, RolloutCallback
from llds.data import DataSource
from llds.errors import ConfigurationError
from llds.losses import LLDSPenalty
from llds.modules import LoRA, SearchAgentModule
from llds.probes import Probe, Trial, TrialUpdates
from llds.rollout import EpisodeLimits
from tests.runs import Run, make_run, rows

VALIDATION = DataSource("llds:quickstart/validation.jsonl", limit=6)


SHORT = {"limits": EpisodeLimits(action_tokens=6, observation_tokens=128, total_tokens=256, turns=2)}


def probed_run(folder: Path, *, iterations: int = 1, module: dict[str, Any] | None = None, **settings: Any) -> Run:
    probe = LLDProbe(**({"every_n_iterations": 1, "questions": 3, "rollouts": 4} | settings))
    return make_run(folder, probe, iterations=iterations, validation=VALIDATION, module=module, rollout=SHORT)


def probe_at(folder: Path, name: str = "iteration-000000") -> dict[str, Any]:
    return json.loads((folder / "probes" / name / "probe.json").read_text())  # type: ignore[no-any-return]


def signals(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if not k.startswith("probe/")} for row in rows(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, pytest.param(LoRA(rank=2), marks=pytest.mark.nightly)])
def test_a_run_with_probes_is_the_run_without_to_the_bit(tmp_path: Path, lora: LoRA | None) -> None:
    lagged = {"lora": lora, "llds_penalty": LLDSPenalty(anchor="lagged", anchor_lag=1)}
    torch.manual_seed(0)  # adapters begin with random weights
    bare = make_run(tmp_path / "bare", iterations=2, validation=VALIDATION, module=lagged, rollout=SHORT).fit()
    torch.manual_seed(0)
    probed = probed_run(tmp_path / "probed", iterations=2, module=lagged).fit()
    assert all(torch.equal(value, probed.weights[name]) for name, value in bare.weights.items())
    mine, other = (run.trainer.optimizers[0].state_dict()["state"] for run in (bare, probed))
    assert all(torch.equal(value, other[key][name]) for key, state in mine.items() for name, value in state.items())
    assert signals(tmp_path / "probed") == signals(tmp_path / "bare")
    assert len(list((tmp_path / "probed" / "probes").iterdir())) == 3  # before each iteration, and at the end
    assert probe_at(tmp_path / "probed")["mean_change"] != 0


@pytest.mark.slow
def test_what_it_writes(tmp_path: Path) -> None:
    run = probed_run(tmp_path, iterations=2, every_n_iterations=2).fit()
    found = probe_at(tmp_path)
    assert (found["iteration"], found["asked"], len(found["questions"])) == (0, 3, 3)
    assert found["settings"]["learning_rate"] == 1e-3
    changes = [question["change_per_token"] for question in found["questions"]]
    assert found["share_negative"] == sum(change < 0 for change in changes) / 3
    assert found["mean_change"] == pytest.approx(sum(changes) / 3)
    [question, *_] = found["questions"]
    assert [one["reward"] for one in question["trajectories"]] == [1.0, 0.0, 0.0, 0.0]  # the first is right
    right = question["trajectories"][0]
    assert question["change_per_token"] == pytest.approx(right["change"] / right["tokens"])
    assert sum(action["change"] for action in question["actions"]) == pytest.approx(right["change"])
    for action in question["actions"]:
        assert len(action["pulls"]) == 4
        assert action["g"] == pytest.approx(action["g_negative"] - action["g_positive"])
        assert action["g_positive"] > 0  # its own trajectory raises it
    with (tmp_path / "probes/iteration-000000/questions.csv").open() as file:
        assert [float(row["change_per_token"]) for row in csv.DictReader(file)] == pytest.approx(changes)
    with (tmp_path / "probes/iteration-000000/actions.csv").open() as file:
        assert {row["place"] for row in csv.DictReader(file)} <= {"first", "later", "answer"}
    logged = [row["probe/share_negative"] for row in rows(tmp_path) if "probe/share_negative" in row]
    assert logged == [str(found["share_negative"])]  # with the iteration that follows; the last has none
    assert probe_at(tmp_path, "iteration-000002")["iteration"] == run.module.iteration == 2


class At(pl.Callback):
    """Does something before an iteration."""

    def __init__(self, iteration: int, action: Callable[[pl.Trainer, SearchAgentModule], None]) -> None:
        self.iteration = iteration
        self.action = action

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: SearchAgentModule, *_: Any) -> None:
        """Do it."""
        if pl_module.iteration == self.iteration:
            self.action(trainer, pl_module)


@pytest.mark.slow
def test_settings_mean_what_they_say(tmp_path: Path) -> None:
    """Several probes of one policy that has been trained for an iteration."""
    found: dict[str, Probe] = {}

    def probe_all(trainer: pl.Trainer, module: SearchAgentModule) -> None:
        variants: dict[str, dict[str, Any]] = {
            "run": {},
            "again": {},
            "fresh": {"optimizer": "fresh"},
            "sgd": {"optimizer": "sgd"},
            "nothing": {"optimizer": "sgd", "learning_rate": 0.0},
            "one_bare": {"use_llds": False},
            "four": {"steps": 4},
            "four_bare": {"steps": 4, "use_llds": False},
        }
        for label, settings in variants.items():
            probe = LLDProbe(questions=2, rollouts=4, label=label, **settings)
            found[label] = probe.probe(trainer, module)

    make_run(
        tmp_path,
        At(1, probe_all),
        iterations=2,
        validation=VALIDATION,
        rollout=SHORT,
        module={"llds_penalty": LLDSPenalty(10.0, gate="token")},
    ).fit()
    changes = {label: probe.changes for label, probe in found.items()}
    assert changes["run"] == changes["again"]
    assert changes["nothing"] == [0.0, 0.0]
    assert changes["one_bare"] == changes["run"]  # LLDS is 0 in the first step, and acts from the second on
    assert changes["four"] != changes["four_bare"]
    assert changes["run"] != changes["fresh"] != changes["sgd"]
    assert {folder.name for folder in (tmp_path / "probes").iterdir()} == {f"iteration-000001-{one}" for one in found}


@pytest.mark.slow
def test_the_update_is_the_one_that_training_would_make(tmp_path: Path) -> None:
    """The run's own step on the same trajectories, from the same weights and moments, ends at the same weights."""
    ends: list[dict[str, torch.Tensor]] = []

    def keep(module: SearchAgentModule) -> None:
        ends.append({name: one.detach().clone() for name, one in module.policy.state_dict().items()})

    def compare(trainer: pl.Trainer, module: SearchAgentModule) -> None:
        rollout = next(one for one in trainer.callbacks if isinstance(one, RolloutCallback))  # type: ignore[attr-defined]
        data = trainer.datamodule  # type: ignore[attr-defined]
        prompts = data.template.encode_batch(data.prompts["validation"][:1], module.tokenizer)
        tensors = rollout.tensors(module, rollout.sample(module, prompts, 4, (0,)))
        trials = TrialUpdates(module, Trial(module.objective, "run", module.optimization.learning_rate, 1))
        tensors = replace(tensors, old_log_probs=trials.log_probs(tensors))
        with trials.updated(tensors):
            keep(module)
        module.policy_update().run(tensors)
        keep(module)

    make_run(tmp_path, At(1, compare), iterations=2, validation=VALIDATION, rollout=SHORT).fit()
    tried, made = ends
    assert all(torch.equal(value, made[name]) for name, value in tried.items())


@pytest.mark.slow
def test_questions_without_right_and_wrong_answers_are_left_out(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        LLDProbe(1, questions=3, rollouts=4),
        iterations=1,
        validation=VALIDATION,
        rollout=SHORT | {"reward": None},  # exact match: nothing is right
    ).fit()
    found = probe_at(tmp_path)
    assert (found["asked"], found["questions"], found["share_negative"], found["is_phase_iii"]) == (3, [], None, False)
    assert run.module.iteration == 1


@pytest.mark.parametrize(
    "settings",
    [{"every_n_iterations": 0}, {"questions": 0}, {"rollouts": 1}, {"steps": 0}, {"seed": -1}, {"learning_rate": -1.0},
     {"label": "a/b"}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        LLDProbe(**settings)


def test_it_needs_questions_and_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.validation"):
        make_run(tmp_path, LLDProbe(1)).fit()
    run = probed_run(tmp_path)
    run.trainer.callbacks.sort(key=lambda callback: isinstance(callback, LLDProbe))  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="before `RolloutCallback`"):
        run.fit()
