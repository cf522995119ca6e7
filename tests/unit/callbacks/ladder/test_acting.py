"""Real trainings in which a scripted detector sounds an alarm, and what the ladder then does to them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from llds.callbacks import CollapseMonitor, TrajectoryLog, list_checkpoints
from llds.callbacks.ladder import CutLearningRate, RaiseLambda, RollBack, Rung, SaveCheckpoint, SkipUpdate, Stop, When
from llds.losses import LLDSPenalty
from llds.modules import Optimization
from llds.monitor import Level
from tests.runs import Run, answers, by_iteration, make_run, scripted
from tests.scripted_detector import ScriptedDetector

ALARM = When("alarm")


def guarded(folder: Path, rungs: list[Rung], levels: Mapping[int, Level], **changes: Any) -> Run:
    """A training whose checkpoints are healthy after one quiet iteration."""
    monitor = CollapseMonitor(ladder=rungs)
    monitor.detector = ScriptedDetector(levels)
    settings: dict[str, Any] = {"iterations": 5, "sampler": scripted(answers)} | changes
    run = make_run(folder, **settings)
    callbacks = run.trainer.callbacks  # type: ignore[attr-defined]
    callbacks.insert(len(callbacks) - 1, monitor)
    callbacks[-1].healthy.quiet = 1
    callbacks[-1].keep_last = 9
    return run


def state(folder: Path, iteration: int) -> dict[str, Any]:
    """The checkpoint of an iteration."""
    loaded: dict[str, Any] = torch.load(folder / "checkpoints" / f"iteration-{iteration:06d}.ckpt", weights_only=False)
    return loaded


def _is_time(key: object) -> bool:
    return isinstance(key, str) and key.startswith("time/")


def assert_same(one: Any, other: Any) -> None:
    """Equal to the bit, however deep."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        one, other = ({key: value for key, value in each.items() if not _is_time(key)} for each in (one, other))
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for ours, theirs in zip(one, other, strict=True):
            assert_same(ours, theirs)
    else:
        assert one == other


@pytest.mark.slow
def test_a_roll_back_restores_weights_and_optimizer_and_the_run_goes_on(tmp_path: Path) -> None:
    lagged = {"llds_penalty": LLDSPenalty(anchor="lagged", anchor_lag=2)}
    run = guarded(tmp_path, [RollBack(ALARM)], {4: "alarm"}, module=lagged).fit()
    then, now, before = state(tmp_path, 2), state(tmp_path, 4), state(tmp_path, 3)
    assert_same(now["state_dict"], then["state_dict"])
    assert_same(now["optimizer_states"], then["optimizer_states"])
    assert not torch.equal(*(one["optimizer_states"][0]["state"][0]["exp_avg"] for one in (before, then)))
    assert_same(now["search_agent"]["anchor"]["anchor"], then["search_agent"]["anchor"]["anchor"])
    detectors = [one["callbacks"]["CollapseMonitor"]["detector"] for one in (then, now)]
    assert_same(*detectors)
    # What goes on
    assert now["search_agent"]["iteration"] == 4
    assert now["lr_schedulers"][0]["last_epoch"] == 8
    logged = by_iteration(tmp_path)
    assert [row.get("collapse/back_to") for row in logged.values()] == [None, None, None, "2.0", None]
    assert [float(row["step"]) for row in logged.values()] == [2, 4, 6, 8, 10]
    assert run.module.iteration == 5


@pytest.mark.slow
def test_after_a_roll_back_other_trajectories_come(tmp_path: Path) -> None:
    """The real sampler: of the iterations that follow 2 and 4, with equal weights, prompts and samples differ."""
    run = guarded(tmp_path, [RollBack(ALARM)], {4: "alarm"}, sampler=None)
    seen: dict[int, list[tuple[str, list[int]]]] = {}
    step = run.module.training_step

    def record(batch: Any, batch_idx: int) -> None:
        seen[run.module.iteration] = [(one.prompt.prompt_id, one.token_ids) for one in batch.trajectories]
        step(batch, batch_idx)

    run.module.training_step = record  # type: ignore[method-assign]
    run.fit()
    assert seen.keys() == {0, 1, 2, 3, 4}
    assert {name for name, _ in seen[2]}.isdisjoint(name for name, _ in seen[4])
    assert all(row["rollout/failed"] == "0.0" for row in by_iteration(tmp_path).values())
    assert all(float(row["policy/behavior_gap_max"]) < 1e-4 for row in by_iteration(tmp_path).values())


LADDER: list[tuple[type[Rung], dict[str, Any]]] = [
    (SaveCheckpoint, {"when": ALARM}),
    (RaiseLambda, {"when": ALARM}),
    (CutLearningRate, {"factor": 0.5, "when": ALARM}),
    (RollBack, {"when": When("alarm", cooldown=2)}),
]


def ladder() -> list[Rung]:
    return [rung(**settings) for rung, settings in LADDER]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [pytest.param(3, marks=pytest.mark.slow), 4, pytest.param(6, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_around_its_actions_equals_one_that_was_not(tmp_path: Path, stop: int) -> None:
    levels: dict[int, Level] = {4: "alarm", 6: "alarm"}
    module = {"optimization": Optimization(learning_rate=1e-3, warmup_ratio=0.5, mini_batch_size=1)}
    settings: dict[str, Any] = {"iterations": 7, "module": module}
    whole = guarded(tmp_path / "a", ladder(), levels, **settings).fit()
    first = guarded(tmp_path / "b", ladder(), levels, **settings)
    prepare = first.module.prepare

    def lose_power(batch: Any) -> Any:
        if first.module.iteration == stop:
            raise RuntimeError("power cut")
        return prepare(batch)

    first.module.prepare = lose_power  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="power cut"):
        first.fit()
    again = guarded(tmp_path / "b", ladder(), levels, **settings).fit(resume=True)
    assert by_iteration(again.folder) == by_iteration(whole.folder)
    assert_same(again.weights, whole.weights)
    ours, theirs = state(tmp_path / "a", 7), state(tmp_path / "b", 7)
    for key in ("optimizer_states", "lr_schedulers", "search_agent", "callbacks"):
        assert_same(ours[key], theirs[key])


@pytest.mark.slow
def test_the_learning_rate_is_cut_below_its_schedule_down_to_a_floor(tmp_path: Path) -> None:
    rungs: list[Rung] = [CutLearningRate(0.5, 0.3, When("alarm", cooldown=1))]
    module = {"optimization": Optimization(learning_rate=1.0, schedule="linear", mini_batch_size=1)}
    rates: dict[str, list[float]] = {}
    for name, levels in {"plain": {}, "cut": {2: "alarm", 3: "alarm", 4: "alarm"}}.items():
        run = guarded(tmp_path / name, rungs if levels else [], levels, iterations=6, module=module)  # type: ignore[arg-type]
        rates[name] = []
        step = run.module.gradients.step

        def record(loss: Any, run: Any = run, step: Any = step, found: list[float] = rates[name]) -> dict[str, float]:
            found.append(run.trainer.optimizers[0].param_groups[0]["lr"])
            metrics: dict[str, float] = step(loss)
            return metrics

        run.module.gradients.step = record  # type: ignore[method-assign]
        run.fit()
    shares = [cut / plain for cut, plain in zip(rates["cut"], rates["plain"], strict=True)]
    assert shares == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (LLDSPenalty(0.1, gate="response"), ("response", "old", [0.1, 0.1, 0.2, 0.3, 0.3])),
        (LLDSPenalty(0.0, gate="token"), ("token", "old", [0, 0, 0.05, 0.1, 0.2])),
        (None, ("action", "old", [0, 0, 0.05, 0.1, 0.2])),
    ],
)
def test_lambda_is_raised_to_its_cap_or_switched_on(tmp_path: Path, penalty: Any, expected: Any) -> None:
    rungs: list[Rung] = [RaiseLambda(2.0, 0.05, 0.3, When("alarm", cooldown=1))]
    levels: dict[int, Level] = {2: "alarm", 3: "alarm", 4: "alarm"}
    run = guarded(tmp_path, rungs, levels, module={"llds_penalty": penalty})
    used = []
    step = run.module.training_step

    def record(batch: Any, batch_idx: int) -> None:
        active = run.module.objective.active_llds
        used.append(active.coefficient if active else 0)
        step(batch, batch_idx)

    run.module.training_step = record  # type: ignore[method-assign]
    run.fit()
    active = run.module.objective.active_llds
    assert active is not None
    assert (active.gate, active.anchor, used) == expected
    assert "train/llds_loss" in by_iteration(tmp_path)["5.0"]


@pytest.mark.slow
def test_where_llds_could_never_act_it_is_switched_on_with_a_lagged_anchor(tmp_path: Path) -> None:
    module = {"llds_penalty": None, "optimization": Optimization(learning_rate=1e-2, mini_batch_size=2)}
    levels: dict[int, Level] = {2: "alarm"}
    run = guarded(tmp_path, [RaiseLambda(when=ALARM)], levels, module=module).fit()
    active = run.module.objective.active_llds
    assert active is not None
    assert active.anchor == "lagged"
    assert run.module.anchor is not None
    assert run.module.anchor.anchor


@pytest.mark.slow
def test_an_update_is_skipped_where_the_rollout_tells_and_the_iteration_counts(tmp_path: Path) -> None:
    levels: dict[int, Level] = {2: "alarm", 3: "alarm"}
    run = guarded(tmp_path, [SkipUpdate(When("alarm", cooldown=1))], levels, every=1).fit()
    one, two, three, four = (state(tmp_path, iteration) for iteration in (1, 2, 3, 4))
    assert_same(two["state_dict"], one["state_dict"])
    assert_same(three["state_dict"], one["state_dict"])
    assert_same(three["optimizer_states"], one["optimizer_states"])
    assert not torch.equal(*(next(iter(state["state_dict"].values())) for state in (four, one)))
    logged = by_iteration(tmp_path)
    assert list(logged) == ["1.0", "2.0", "3.0", "4.0", "5.0"]
    assert ["train/grad_norm" in row for row in logged.values()] == [True, False, False, True, True]
    assert run.module.iteration == 5


@pytest.mark.slow
def test_a_stop_saves_and_says_so_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    levels: dict[int, Level] = {2: "alarm", 3: "alarm", 4: "alarm"}
    run = guarded(tmp_path, [Stop(When("alarm", after=1))], levels, every=100).fit()
    kept = [path.name for path in list_checkpoints(tmp_path)]
    assert kept == ["iteration-000001.ckpt", "iteration-000003.ckpt"]  # the first quiet iteration, and the last
    [monitor] = [one for one in run.trainer.callbacks if isinstance(one, CollapseMonitor)]  # type: ignore[attr-defined]
    assert monitor.has_stopped
    again = guarded(tmp_path, [Stop(When("alarm", after=1))], levels, every=100).fit(resume=True)
    assert again.module.iteration == 5


@pytest.mark.slow
def test_healthy_checkpoints_stay_until_there_are_newer_ones(tmp_path: Path) -> None:
    run = guarded(tmp_path, [], {3: "warning", 4: "warning", 5: "warning"}, iterations=6)
    run.trainer.callbacks[-1].keep_last = 1  # type: ignore[attr-defined]
    run.fit()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["iteration-000001.ckpt", "iteration-000006.ckpt"]


@pytest.mark.slow
def test_without_a_healthy_checkpoint_nothing_happens_and_it_does_not_count(tmp_path: Path) -> None:
    levels: dict[int, Level] = {1: "alarm", 2: "alarm"}
    run = guarded(tmp_path, [RollBack(ALARM)], levels, iterations=3).fit()
    [monitor] = [one for one in run.trainer.callbacks if isinstance(one, CollapseMonitor)]  # type: ignore[attr-defined]
    assert [record.count for _, record in monitor.ladder] == [0]
    assert not (tmp_path / "incidents").exists() or not list((tmp_path / "incidents").iterdir())


@pytest.mark.slow
def test_a_trajectory_log_beside_it_is_not_disturbed(tmp_path: Path) -> None:
    run = guarded(tmp_path, [RollBack(ALARM)], {4: "alarm"})
    run.trainer.callbacks.insert(0, TrajectoryLog())  # type: ignore[attr-defined]
    run.fit()
    assert len(list((tmp_path / "trajectories").iterdir())) == 5
