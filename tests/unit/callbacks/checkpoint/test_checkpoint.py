"""Interrupts: what is saved, what is not, and that a resumed run equals one that was never interrupted."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llds.callbacks import IterationCheckpoint, list_checkpoints
from llds.data import DataSource
from llds.errors import ConfigurationError
from llds.losses import LLDSPenalty
from llds.modules import Optimization
from llds.types import Trajectory
from tests.runs import LIMITS, FirstIsRight, Run, answers, by_iteration, make_run, rows, scripted

MODULE = {"llds_penalty": LLDSPenalty(anchor="lagged", anchor_lag=2)}


class InterruptedReward(FirstIsRight):
    """Ctrl-C when the trajectories of one iteration are rewarded."""

    def __call__(self, trajectory: Trajectory) -> float:
        """Score, or not."""
        if trajectory.policy_version == 2:
            raise KeyboardInterrupt
        return super().__call__(trajectory)


@pytest.fixture(autouse=True)
def _restored_signals() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good while it shuts down."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def fresh(folder: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {"iterations": 5, "sampler": scripted(answers), "module": MODULE, "every": 100}
    return make_run(folder, **(settings | changes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that is never interrupted."""
    return fresh(tmp_path_factory.mktemp("whole")).fit()


def names(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


def assert_equal_runs(run: Run, other: Run) -> None:
    assert by_iteration(run.folder) == by_iteration(other.folder)
    assert all(torch.equal(value, other.weights[name]) for name, value in run.weights.items())


def interrupt_after(module: Any, name: str, calls: int, before: bool = False) -> None:
    """Ctrl-C in the given call of a method, after (or before) it has done its work."""
    method: Callable[..., Any] = getattr(module, name)
    count = 0

    def call(*args: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls and before:
            raise KeyboardInterrupt
        result = method(*args, **named)
        if count == calls:
            raise KeyboardInterrupt
        return result

    setattr(module, name, call)


@pytest.mark.slow
def test_an_interrupted_rollout_saves_the_state_before_it(tmp_path: Path, whole: Run) -> None:
    run = fresh(tmp_path / "a", rollout={"reward": InterruptedReward()})
    with pytest.raises(SystemExit):
        run.fit()
    assert names(tmp_path / "a") == ["iteration-000002.ckpt"]
    assert_equal_runs(fresh(tmp_path / "a").fit(resume=True), whole)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_interrupted_scoring_saves_the_state_before_the_iteration(tmp_path: Path, whole: Run, before: bool) -> None:
    run = fresh(tmp_path / "a")
    interrupt_after(run.module, "prepare", 3, before)
    with pytest.raises(SystemExit):
        run.fit()
    assert names(tmp_path / "a") == ["iteration-000002.ckpt"]
    assert_equal_runs(fresh(tmp_path / "a").fit(resume=True), whole)


@pytest.mark.slow
@pytest.mark.parametrize("calls", [5, 6])  # in the middle of the third iteration's two steps, and after them
def test_an_interrupted_update_saves_nothing_and_the_last_checkpoint_goes_on(
    tmp_path: Path, whole: Run, calls: int
) -> None:
    run = fresh(tmp_path / "a", every=1)
    interrupt_after(run.module.gradients, "step", calls)
    with pytest.raises(SystemExit):
        run.fit()
    assert names(tmp_path / "a") == ["iteration-000001.ckpt", "iteration-000002.ckpt"]
    assert_equal_runs(fresh(tmp_path / "a").fit(resume=True), whole)


@pytest.mark.slow
def test_an_iteration_that_has_not_reached_the_loggers_is_done_again(tmp_path: Path, whole: Run) -> None:
    run = fresh(tmp_path / "a", every=2)
    interrupt_after(run.module, "training_step", 3)  # updated and counted, not completed
    with pytest.raises(SystemExit):
        run.fit()
    assert names(tmp_path / "a") == ["iteration-000002.ckpt"]
    assert_equal_runs(fresh(tmp_path / "a").fit(resume=True), whole)


@pytest.mark.slow
def test_an_interrupt_before_the_first_iteration_has_ended_saves_nothing(tmp_path: Path) -> None:
    run = fresh(tmp_path)
    interrupt_after(run.module, "prepare", 1)
    with pytest.raises(SystemExit):
        run.fit()
    assert names(tmp_path) == []


@pytest.mark.slow
def test_metrics_of_an_iteration_that_was_saved_but_not_logged_are_logged_by_the_resumed_run(
    tmp_path: Path, whole: Run
) -> None:
    run = fresh(tmp_path / "a", every=1)
    interrupt_after(run.trainer, "save_checkpoint", 2)  # the loggers have not seen iteration 2 yet
    with pytest.raises(SystemExit):
        run.fit()
    resumed = fresh(tmp_path / "a", every=1).fit(resume=True)
    assert resumed.module.iteration == 5
    assert by_iteration(tmp_path / "a") == by_iteration(whole.folder)


@pytest.mark.slow
def test_a_finished_run_goes_on_when_it_gets_more_iterations_and_only_then(tmp_path: Path, whole: Run) -> None:
    first = fresh(tmp_path / "a", iterations=2).fit()
    again = fresh(tmp_path / "a", iterations=2).fit(resume=True)
    assert again.module.iteration == 2
    assert all(torch.equal(value, first.weights[name]) for name, value in again.weights.items())
    longer = fresh(tmp_path / "a", iterations=5).fit(resume=True)
    assert longer.module.iteration == 5
    assert_equal_runs(longer, whole)


@pytest.mark.slow
def test_counters_of_skipped_steps_survive(tmp_path: Path) -> None:
    run = fresh(tmp_path, iterations=1)
    run.module.nonfinite.total, run.module.nonfinite.in_a_row = 7, 2
    run.module.gradients.step = lambda loss: {}  # type: ignore[method-assign]
    run.fit()
    state = torch.load(list_checkpoints(tmp_path)[-1], weights_only=True)["search_agent"]
    assert state["nonfinite"] == {"total": 7, "in_a_row": 2}
    resumed = fresh(tmp_path, iterations=1).fit(resume=True)
    assert (resumed.module.nonfinite.total, resumed.module.nonfinite.in_a_row) == (7, 2)


@pytest.mark.slow
def test_the_reference_is_not_saved_and_is_the_initial_policy_after_a_resume(tmp_path: Path) -> None:
    run = fresh(tmp_path, iterations=1).fit()
    initial = {name: value.clone() for name, value in run.module.reference.state_dict().items()}  # type: ignore[union-attr]
    saved = torch.load(list_checkpoints(tmp_path)[-1], weights_only=True)["state_dict"]
    assert all(name.startswith("policy.") for name in saved)
    reference = fresh(tmp_path, iterations=2).fit(resume=True).module.reference
    assert reference is not None
    assert not reference.training
    assert all(torch.equal(value, initial[name]) for name, value in reference.state_dict().items())


@pytest.mark.slow
def test_old_checkpoints_go_and_none_is_left_half_written(tmp_path: Path) -> None:
    fresh(tmp_path, every=1).fit()
    assert names(tmp_path) == ["iteration-000004.ckpt", "iteration-000005.ckpt"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


@pytest.mark.slow
def test_validation_in_the_middle_leaves_training_as_it_is(tmp_path: Path) -> None:
    questions = DataSource("llds:quickstart/validation.jsonl", limit=3)
    # The real sampler: it keeps caches and has modes of its own.
    limits = replace(LIMITS, action_tokens=8)
    rollout = {"limits": limits, "eval_limits": limits}
    settings: dict[str, Any] = {"sampler": None, "iterations": 4, "every": 4, "rollout": rollout}
    without = fresh(tmp_path / "a", validation=questions, limit_val_batches=0, **settings).fit()
    during = fresh(tmp_path / "b", validation=questions, val_check_interval=2, **settings).fit()
    assert_equal_runs(during, without)
    validated = [row for row in rows(tmp_path / "b") if "val/exact_match" in row]
    assert [(row["iteration"], row["step"]) for row in validated] == [("2.0", "4"), ("4.0", "8")]


@pytest.mark.slow
def test_the_warm_up_counts_optimizer_steps(tmp_path: Path) -> None:
    optimization = Optimization(learning_rate=1.0, warmup_ratio=0.5, mini_batch_size=1)
    run = fresh(tmp_path, iterations=4, module=MODULE | {"optimization": optimization})
    rates: list[float] = []
    step = run.module.gradients.step

    def record(loss: Any) -> dict[str, float] | None:
        rates.append(run.trainer.optimizers[0].param_groups[0]["lr"])
        return step(loss)

    run.module.gradients.step = record  # type: ignore[method-assign]
    run.fit()
    assert rates == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1])


@pytest.mark.parametrize("settings", [{"every_n_iterations": 0}, {"keep_last": 0}])
def test_counts_below_one_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        IterationCheckpoint(**settings)
