"""The overlap of iterations: whose weights sampled what, what a checkpoint holds, and what is refused."""

import io
import threading
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from llds.agent_tools import SearchStatistics
from llds.batches import RolloutBatch
from llds.callbacks import RolloutCallback, list_checkpoints
from llds.callbacks.rollout import overlap
from llds.callbacks.rollout.overlap import NextRollout
from llds.callbacks.rollout.packing import (
    packed_statistics,
    packed_trajectories,
    unpacked_statistics,
    unpacked_trajectories,
)
from llds.data import DataSource
from llds.errors import ConfigurationError
from llds.losses import ImportanceCorrection
from llds.modules import SearchAgentModule
from llds.rollout import Rollout, RolloutUnderWay
from llds.samplers import TransformersSampler
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn
from tests.runs import LIMITS, QUESTIONS, FirstIsRight, Run, answers, by_iteration, make_run, scripted

MODULE = {"importance_correction": ImportanceCorrection()}


def overlapped(folder: Path, *callbacks: Any, **changes: Any) -> Run:
    settings: dict[str, Any] = {"iterations": 5, "module": MODULE, "sampler": TransformersSampler(max_wait_s=60.0)}
    settings |= changes
    settings["rollout"] = {"overlap": True} | settings.get("rollout", {})
    return make_run(folder, *callbacks, **settings)


class Watch(TransformersSampler):
    """Notes which weights sampled while which were trained."""

    def __init__(self) -> None:
        super().__init__(max_wait_s=60.0)
        self.module: SearchAgentModule | None = None
        self.during_updates: set[tuple[int, int]] = set()

    def _generate(self, tickets: Any) -> Any:
        for one in super()._generate(tickets):
            if self.module is not None and self.module.is_updating:
                self.during_updates.add((self.policy_version, self.module.iteration))
            yield one


class PausedUpdate(SearchAgentModule):
    """Does not update before the rollout beside it has got somewhere."""

    rollout: RolloutCallback

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """Wait for the next rollout's end, then update."""
        self.is_updating = True
        self.rollout._next.settle()
        super().training_step(batch, batch_idx)


@pytest.mark.slow
def test_the_next_rollout_goes_on_during_the_updates_by_the_weights_before_them(tmp_path: Path) -> None:
    sampler = Watch()
    run = overlapped(tmp_path, sampler=sampler, agent=PausedUpdate, iterations=3)
    sampler.module = run.module
    [run.module.rollout] = [one for one in run.trainer.callbacks if isinstance(one, RolloutCallback)]  # type: ignore
    run.fit()
    assert sampler.during_updates == {(0, 0), (1, 1)}  # nothing follows the last iteration
    found = by_iteration(tmp_path)
    assert [found[f"{number}.0"]["rollout/weight_lag"] for number in (1, 2, 3)] == ["0.0", "1.0", "1.0"]
    assert float(found["1.0"]["policy/behavior_gap_max"]) < 1e-4
    assert float(found["2.0"]["policy/behavior_gap_max"]) > 1e-4  # another policy, and its log-probs are kept as such


@pytest.mark.slow
def test_trajectories_are_those_that_their_version_of_the_weights_samples(tmp_path: Path) -> None:
    seen: dict[bool, list[list[list[int]]]] = {True: [], False: []}
    for is_overlapped in (True, False):
        run = overlapped(tmp_path / str(is_overlapped), rollout={"overlap": is_overlapped}, iterations=2)
        run.module.optimization = type(run.module.optimization)(learning_rate=0.0, mini_batch_size=1)
        original = run.module.training_step

        def step(batch: RolloutBatch, batch_idx: int, kept: Any = seen[is_overlapped], go: Any = original) -> None:
            kept.append([one.token_ids for one in batch.trajectories])
            go(batch, batch_idx)

        run.module.training_step = step  # type: ignore[method-assign]
        run.fit()
    assert seen[True] == seen[False]  # the weights never move, so that only prompts and seeds could differ


@pytest.mark.slow
def test_a_run_that_resumes_equals_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole = overlapped(tmp_path / "whole", every=100).fit()
    overlapped(tmp_path / "part", every=3, limit_train_batches=4).fit()
    for late in list_checkpoints(tmp_path / "part")[1:]:
        late.unlink()  # as if it had been killed after the checkpoint of the third iteration
    resumed = overlapped(tmp_path / "part", every=100).fit(resume=True)
    expected, found = by_iteration(whole.folder), by_iteration(resumed.folder)
    assert found["4.0"]["rollout/weight_lag"] == "1.0"  # the rollout under way was in the checkpoint
    assert found == expected
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("has_overlap", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_group_size(tmp_path: Path, has_overlap: bool) -> None:
    settings: dict[str, Any] = {"overlap": has_overlap}
    overlapped(tmp_path, iterations=4, rollout=settings, limit_train_batches=2).fit()
    resumed = overlapped(tmp_path, iterations=4, rollout=settings | {"group_size": 3})
    sizes: list[list[int]] = []
    original = resumed.module.training_step

    def step(batch: RolloutBatch, batch_idx: int) -> None:
        prompts = [one.prompt.prompt_id for one in batch.trajectories]
        sizes.append([prompts.count(one) for one in sorted(set(prompts))])
        original(batch, batch_idx)

    resumed.module.training_step = step  # type: ignore[method-assign]
    resumed.fit(resume=True)
    assert sizes == [[3, 3], [3, 3]]  # not the four of each that were sampled ahead
    lags = [row["rollout/weight_lag"] for row in by_iteration(tmp_path).values()]
    assert lags == (["0.0", "1.0", "0.0", "1.0"] if has_overlap else ["0.0"] * 4)


@pytest.mark.slow
def test_no_prompt_is_lost_or_rolled_out_twice(tmp_path: Path) -> None:
    def run(folder: Path, is_overlapped: bool, **changes: Any) -> tuple[Run, list[list[str]]]:
        sampler, prompts = scripted(answers), []
        sampler.can_overlap = True
        made = overlapped(folder, sampler=sampler, rollout={"overlap": is_overlapped}, **changes)
        step = made.module.training_step

        def training_step(batch: RolloutBatch, batch_idx: int) -> None:
            prompts.append([one.prompt.prompt_id for one in batch.trajectories])
            step(batch, batch_idx)

        made.module.training_step = training_step  # type: ignore[method-assign]
        return made, prompts

    plain, expected = run(tmp_path / "plain", False)
    plain.fit()
    first, seen = run(tmp_path / "a", True, limit_train_batches=2, every=2)
    first.fit()
    second, rest = run(tmp_path / "a", True)
    second.fit(resume=True)
    assert seen + rest == expected
    assert second.trainer.train_dataloader.position == plain.trainer.train_dataloader.position == 5


@pytest.mark.slow
def test_an_evaluation_waits_for_the_rollout_and_uses_the_newest_weights(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Versions(RolloutCallback):
        def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: RolloutBatch, *args: Any) -> None:
            super().on_validation_batch_start(trainer, pl_module, batch, *args)
            seen.extend((pl_module.iteration, one.policy_version) for one in batch.trajectories)

    run = overlapped(tmp_path, iterations=3, validation=DataSource(QUESTIONS.path, limit=2), val_check_interval=1)
    old = next(one for one in run.trainer.callbacks if isinstance(one, RolloutCallback))  # type: ignore[attr-defined]
    old.__class__ = Versions
    run.fit()
    assert seen == [(1, 1), (1, 1), (2, 2), (2, 2), (3, 3), (3, 3)]
    found = by_iteration(tmp_path)
    assert [found[f"{number}.0"]["rollout/weight_lag"] for number in (2, 3)] == ["1.0", "1.0"]


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_rollout_behind_and_resumes(tmp_path: Path) -> None:
    run = overlapped(tmp_path, every=100)
    step = run.module.training_step

    def interrupted(batch: RolloutBatch, batch_idx: int) -> None:
        if batch_idx == 2:
            raise RuntimeError("stop")
        step(batch, batch_idx)

    run.module.training_step = interrupted  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="stop"):
        run.fit()
    assert not [one for one in threading.enumerate() if one.name.startswith("llds-rollout")]
    resumed = overlapped(tmp_path, every=100).fit(resume=True)
    found = by_iteration(tmp_path)
    assert [found[f"{number}.0"]["rollout/weight_lag"] for number in (3, 4, 5)] == ["0.0", "1.0", "1.0"]
    assert resumed.trainer.train_dataloader.position == 5


def test_a_rollout_of_other_prompts_or_another_iteration_is_not_handed_out() -> None:
    prompts = [Prompt("a", "?", ("x",))]
    for iteration, asked in ((4, prompts), (3, [Prompt("b", "?", ("x",))])):
        waiting = NextRollout(group_size=4)
        waiting.begun(3, prompts, under_way := ended())
        assert waiting.take(iteration, asked, []) is None
        assert waiting.take(3, prompts, []) is None  # it is gone
    waiting.begun(3, prompts, under_way)
    assert waiting.take(3, prompts, []) is under_way
    waiting.reach(3)
    assert waiting.take(3, prompts, []) is under_way  # until the iteration is trained
    waiting.reach(4)
    assert waiting.take(3, prompts, []) is None


class Stops(FirstIsRight):
    """Ctrl-C or SIGTERM when an iteration's trajectories are rewarded."""

    def __init__(self, signal: BaseException) -> None:
        self.signal = signal

    def __call__(self, trajectory: Trajectory) -> float:
        """Score, or not."""
        if trajectory.policy_version == 2:
            raise self.signal
        return super().__call__(trajectory)


SHORT = {"limits": replace(LIMITS, action_tokens=8)}
NIGHTLY = (pytest.mark.slow, pytest.mark.nightly)


@pytest.mark.parametrize(
    ("place", "signal"),
    [
        pytest.param("reward", SIGTERMException(143), marks=NIGHTLY),
        pytest.param("prepare", KeyboardInterrupt(), marks=NIGHTLY),
        pytest.param("wait", SIGTERMException(143), marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_interrupted_in_an_iteration_equals_one_that_was_not(
    tmp_path: Path, place: str, signal: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(folder: str, **rollout: Any) -> Run:
        return overlapped(tmp_path / folder, every=100, iterations=4, rollout=SHORT | rollout)

    whole = made("whole").fit()
    run = made("a", reward=Stops(signal) if place == "reward" else FirstIsRight())
    if place == "prepare":
        prepare = run.module.prepare
        run.module.prepare = lambda batch: raises(signal) if run.module.iteration == 3 else prepare(batch)  # type: ignore
    if place == "wait":
        calls = iter(range(9))
        monkeypatch.setattr(overlap, "wait", lambda futures: raises(signal) if next(calls) == 2 else wait(futures))
    with pytest.raises(SystemExit):
        run.fit()
    monkeypatch.undo()
    assert [path.name for path in list_checkpoints(run.folder)] == ["iteration-000003.ckpt"]
    torch.load(list_checkpoints(run.folder)[-1], weights_only=True)
    resumed = made("a").fit(resume=True)
    assert by_iteration(run.folder) == by_iteration(whole.folder)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())


def test_trajectories_come_back_from_plain_values_as_they_were() -> None:
    prompt = Prompt(
        "a", "?", ("x", "y"), messages=({"role": "user", "content": "?"},), prompt_ids=(5, 6), opening=range(1, 1)
    )
    turns = [
        Turn([1, 2], [-0.1, -0.2], "stop", Action("tool", "search", "q"), [7], True, ("d",), 0.5),
        Turn([3], [-0.3], "eos", Action("answer", "", "x")),
    ]
    given = [
        Trajectory(prompt, "0-1", 4, SamplingParams(), 3, turns, "answered", reward=1.0),
        Trajectory(Prompt("b", "?", ("z",)), "0-2", 5, SamplingParams(), 3, [], "failed", "down", "sampler"),
    ]
    packed = packed_trajectories(given)
    file = io.BytesIO()
    torch.save(packed, file)
    file.seek(0)
    assert unpacked_trajectories(torch.load(file, weights_only=True)) == given


def test_what_tools_count_is_plain_or_refused() -> None:
    counted = SearchStatistics(queries=3, retriever_s=0.5)
    assert unpacked_statistics(packed_statistics(counted, "search"), SearchStatistics()) == counted
    assert packed_statistics(None, "clock") is None
    with pytest.raises(ConfigurationError, match=r"Expected `statistics` of the tool `clock` .* got a object"):
        packed_statistics(object(), "clock")


def test_the_rollout_of_an_earlier_version_is_left_out_with_a_warning() -> None:
    waiting = NextRollout(group_size=4)
    with pytest.warns(UserWarning, match="sampled anew by the present weights"):
        waiting.load_state_dict({"iteration": 3, "trajectories": [], "tool_statistics": [[]]})
    assert waiting.state_dict() == {}


def raises(error: BaseException) -> Any:
    raise error


def ended() -> RolloutUnderWay:
    future: Future[None] = Future()
    future.set_result(None)
    return RolloutUnderWay(Rollout([]), future)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module": {}}, r"`model\.importance_correction`, or a loss or selection .* `rollout\.overlap` is true"),
        ({"sampler": scripted(answers)}, r"`rollout\.sampler` to be one that can .* got ScriptedSampler"),
    ],
)
def test_what_cannot_overlap_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        overlapped(tmp_path, **changes).fit()


def test_a_checkpoint_without_overlap_holds_no_rollout(tmp_path: Path) -> None:
    make_run(tmp_path, iterations=1, sampler=scripted(answers)).fit()
    state = torch.load(list_checkpoints(tmp_path)[-1], weights_only=False)
    assert not [key for key in state["callbacks"] if key.startswith(RolloutCallback.__name__)]
