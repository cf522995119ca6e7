"""The signals that need another look at the policy, on real trainings, and that the vocabulary knows all of them."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from llds.agent_tools import SearchTool
from llds.batches import RolloutBatch
from llds.batches.policy_batch import collate
from llds.callbacks import CollapseMonitor, IterationSignals, RetrievalCallback
from llds.callbacks.signals.control_tokens import first_tokens
from llds.callbacks.signals.early_correct import EarlyCorrect
from llds.data import PromptLoader, SeenPrompts
from llds.errors import ConfigurationError
from llds.metrics import displacement_metrics, has_answer
from llds.metrics.averages import masked_mean
from llds.modules import SearchAgentModule
from llds.modules.policy.tokenizer import load_tokenizer
from llds.monitor.signals import BY_NAME
from llds.retrieval import Passage, Retriever
from llds.rollout import EpisodeLimits, Oversampling, TagProtocol
from llds.types import Prompt
from tests.runs import LIMITS, POLICY, answers, by_iteration, make_run, rows, scripted
from tests.trajectories import random_trajectories, random_trajectory

NOT_SIGNALS = ("time/", "collapse/", "iteration", "step")


class Exact(pl.Callback):
    """Scores all trajectories again, as the policy is after the updates."""

    def __init__(self) -> None:
        self.displacement: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Score."""
        tensors = batch.policy_batch
        assert tensors is not None
        assert tensors.old_log_probs is not None
        self.displacement.append(
            displacement_metrics(
                before=tensors.old_log_probs,
                after=pl_module.score(pl_module.policy, tensors),
                action_index=tensors.action_index,
                answered=has_answer(batch.trained),
                correct=tensors.correct,
            )
        )


@pytest.mark.slow
def test_the_change_is_from_before_to_after_all_updates(tmp_path: Path) -> None:
    exact = Exact()
    make_run(tmp_path, exact, sampler=scripted(answers)).fit()
    for row, expected in zip(by_iteration(tmp_path).values(), exact.displacement, strict=True):
        assert len(expected) >= 10  # all 8 trajectories of the iteration
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=1e-6)
        assert expected["llds/displacement_correct"] != 0


@pytest.mark.slow
def test_the_fixed_set_is_scored_by_the_policy_that_the_updates_made(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=3, sampler=scripted(answers)).fit()
    [signals] = [one for one in run.trainer.callbacks if isinstance(one, IterationSignals)]  # type: ignore[attr-defined]
    assert len(signals.early.trajectories) == 4  # 2 of each of the first two iterations
    likelihoods = [float(row["policy/probe_log_likelihood"]) for row in rows(tmp_path)[1:]]
    batch = collate(signals.early.trajectories)
    now = masked_mean(run.module.score(run.module.policy, batch), batch.action_mask)
    assert likelihoods[-1] == pytest.approx(float(now), abs=1e-6)
    assert likelihoods[0] != likelihoods[1]
    assert "policy/probe_log_likelihood" not in rows(tmp_path)[0]  # the set was not complete


def test_without_a_share_nothing_is_scored(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=1, sampler=scripted(answers))
    run.trainer.callbacks[0] = IterationSignals(0.0)  # type: ignore[attr-defined]
    run.fit()
    [row] = rows(tmp_path)
    assert not {name for name in row if name.startswith(("llds/displacement", "llds/lld", "policy/probe"))}
    assert row["data/repeated_prompts"] == "0.0"


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigurationError, match=r"signals\.rescored_share.*got"):
        IterationSignals(share)


@pytest.mark.parametrize("switch", ["observation_ratio", "control_tokens"])
def test_signals_of_what_is_scored_once_more_are_refused_where_nothing_is(switch: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"signals\.rescored_share.*signals\.{switch}.*got 0"):
        IterationSignals(0.0, **{switch: True})


@pytest.mark.slow
def test_measuring_what_was_not_sampled_brings_its_reference_and_changes_no_weight(tmp_path: Path) -> None:
    runs = {}
    for on in (False, True):
        runs[on] = make_run(tmp_path / str(on), sampler=scripted(answers), module={"kl_penalty": None})
        runs[on].trainer.callbacks[0] = IterationSignals(observation_ratio=on, control_tokens=on)  # type: ignore[attr-defined]
        runs[on].fit()
        assert (runs[on].module.reference is not None) == on
    assert all(torch.equal(value, runs[True].weights[name]) for name, value in runs[False].weights.items())


def test_control_tokens_are_the_first_of_each_mark() -> None:
    tokenizer = load_tokenizer(POLICY)
    names = TagProtocol().control_marks(["search"])
    assert names == {"<search>", "</search>", "<answer>", "</answer>"}
    assert first_tokens(names, tokenizer) == set(tokenizer.convert_tokens_to_ids(sorted(names)))
    # Of a mark of several tokens the first, also where the tokenizer joins the space before it
    assert {tokenizer.decode([one]) for one in first_tokens({"Who is"}, tokenizer)} == {"W", " W"}


class LosesItsPlace(pl.Callback):
    """After the second iteration the loader begins again."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule, *_: object) -> None:
        """Forget the position."""
        loader = trainer.train_dataloader
        assert isinstance(loader, PromptLoader)
        if pl_module.iteration == 2:
            loader.position = 0


@pytest.mark.slow
def test_prompts_that_come_back_are_counted(tmp_path: Path) -> None:
    make_run(tmp_path, LosesItsPlace(), iterations=4, sampler=scripted(answers)).fit()
    assert [float(row["data/repeated_prompts"]) for row in rows(tmp_path)] == [0.0, 0.0, 1.0, 1.0]


def test_a_pass_over_all_prompts_repeats_none(tmp_path: Path) -> None:
    prompts = [Prompt(str(number), "?", ("x",)) for number in range(3)]
    seen = SeenPrompts()
    assert [seen.add([prompts[number]], 3) for number in (0, 1, 2, 2, 0, 1)] == [0.0] * 6
    assert seen.add([prompts[0], prompts[0]], 3) == 0.5
    again = SeenPrompts()
    again.load_state_dict(seen.state_dict())
    assert again.add([prompts[0]], 3) == seen.add([prompts[0]], 3) == 1.0


def test_the_fixed_set_takes_one_of_each_question_first() -> None:
    early = EarlyCorrect()
    trajectories = [random_trajectory(seed, seed // 2, 1.0) for seed in range(4)]  # two of each of two questions
    early.collect(trajectories, 3)
    expected = [trajectories[0], trajectories[2], trajectories[1]]
    assert [one.token_ids for one in early.trajectories] == [one.token_ids for one in expected]
    assert [one.action_index for one in early.trajectories] == [one.action_index for one in expected]
    before = early.trajectories
    early.collect(random_trajectories(seed=5), 3)
    assert early.trajectories is before


def test_the_fixed_set_waits_for_correct_trajectories_but_not_for_ever() -> None:
    early = EarlyCorrect()
    for iteration in range(9):
        early.collect(random_trajectories(groups=1, seed=iteration), 8)  # all wrong
        assert not early.trajectories
    for iteration in range(5):
        assert not early.trajectories
        early.collect(random_trajectories(groups=2, seed=iteration), 8)  # one is right
        copy = EarlyCorrect()
        copy.load_state_dict(early.state_dict())
        early = copy
    assert len(early.trajectories) == 5


class OnePassage(Retriever):
    """Finds the same for every query."""

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"class": "OnePassage"}

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Return it."""
        return [[Passage("GH", "Ghana", "The demonym of Ghana is Ghanaian.")] for _ in queries]


class FromAllLogits(pl.Callback):
    """Observations and control tokens by the models' own logits, one trajectory at a time."""

    def __init__(self) -> None:
        self.expected: list[dict[str, float]] = []

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Measure."""
        encode = pl_module.tokenizer.convert_tokens_to_ids
        marks = [encode(mark) for mark in ("<search>", "</search>", "<answer>", "</answer>")]
        ratios, means = [], []
        for one in batch.trained:
            ids, index = torch.tensor([one.token_ids]), torch.tensor(one.action_index)
            policy, reference = (
                model.base_model(ids).logits[0].log_softmax(-1) for model in (pl_module.policy, pl_module.reference)
            )
            seen = [at for at in range(len(index)) if index[at] < 0 and (index[:at] >= 0).any()]
            said = [at for at in range(len(index)) if index[at] >= 0 and ids[0, at] not in marks]
            change = [float(policy[at - 1, ids[0, at]] - reference[at - 1, ids[0, at]]) for at in seen]
            likely = [float(policy[at - 1, marks].exp().sum()) for at in said]
            ratios += [sum(change) / len(change)] if change else []
            means.append(sum(likely) / len(likely))
        self.expected.append(
            {
                "policy/observation_log_ratio": sum(ratios) / len(ratios),
                "policy/control_probability": sum(means) / len(means),
            }
        )


def test_the_vocabulary_has_every_key_that_a_run_logs_and_no_other(tmp_path: Path) -> None:
    def script(iteration: int, trajectory: int, turn: int) -> str:
        """Up to three searches, so that every kind of action and every number of rounds is there."""
        if turn < trajectory % 4 or (trajectory == 0 and turn < 3):
            return f"<search> the demonym of Ghana {turn} </search>"
        return "<answer> Accra </answer>"

    exact = FromAllLogits()
    run = make_run(
        tmp_path,
        exact,
        RetrievalCallback(OnePassage()),
        CollapseMonitor(),
        iterations=3,
        sampler=scripted(script),
        tools=[SearchTool(top_k=1)],
        rollout={"limits": EpisodeLimits(**{**vars(LIMITS), "turns": 3}), "oversampling": Oversampling()},
    )
    run.trainer.callbacks[0] = IterationSignals(observation_ratio=True, control_tokens=True)  # type: ignore[attr-defined]
    run.fit()
    for row, expected in zip(rows(tmp_path), exact.expected, strict=True):
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=2e-6)
        assert expected["policy/observation_log_ratio"] != 0
    logged = {name for row in rows(tmp_path) for name in row if not name.startswith(NOT_SIGNALS)}
    assert logged - set(BY_NAME) == set()
    # Those are of a callback of their own, of settings that are off by default, or of other frameworks' logs
    terms = ("train/entropy_", "train/positive_nll", "train/observation_nll")
    elsewhere = ("reward/std", "reward/lowest", "reward/highest", "rollout/trajectories", *terms)
    sometimes = ("probe/", "rollout/abandoned", "collapse/back_to", *elsewhere)
    always = {name for name in BY_NAME if not name.startswith(sometimes)}
    assert always - logged == set()
