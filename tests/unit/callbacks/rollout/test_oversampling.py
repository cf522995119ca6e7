"""Over-sampling in real trainings: which groups are trained on, which prompts, the bound, resuming to the bit.

The batch has 2 prompts. Rewards are written down by iteration and position of the prompt in it.
"""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from llds.batches import RolloutBatch
from llds.callbacks import RolloutCallback
from llds.data import DataSource
from llds.errors import ConfigurationError, SamplerError, TooManyFailuresError
from llds.losses import ImportanceCorrection, LLDSPenalty
from llds.rewards import Reward
from llds.rollout import Oversampling
from llds.samplers import TransformersSampler
from llds.types import Trajectory
from tests.runs import QUESTIONS, Run, answers, by_iteration, make_run, scripted

PLAN = [
    "wm" + "rm",  # one of two has a signal and one is missing: two more prompts
    "ww" + "wwww",  # none has: all that 3 x 2 prompts allow
    "mm",
    "mr" + "mm",  # one more than is wanted
    "rw" + "mwmr",  # none has at first, and both are among the last four
]
"""Per iteration and prompt: m(ixed), r(ight), w(rong)."""


class Planned(Reward):
    """Rewards by the plan; may break once.

    Args:
        breaks_at: Iteration and position at which it raises.
    """

    correct_from = 1.0

    def __init__(self, breaks_at: tuple[int, int] | None = None) -> None:
        self.breaks_at = breaks_at

    def __call__(self, trajectory: Trajectory) -> float:
        """Score: the first of a mixed group is right."""
        _, iteration, position = map(int, trajectory.group_id.split("-"))
        if (iteration, position) == self.breaks_at:
            raise RuntimeError("stop")
        kind = PLAN[iteration][position]
        return float(kind == "r" or (kind == "m" and trajectory.index % 4 == 0))


def oversampled(folder: Path, *, breaks_at: tuple[int, int] | None = None, **changes: Any) -> Run:
    settings: dict[str, Any] = {"iterations": len(PLAN), "sampler": scripted(answers)} | changes
    rollout = {"oversampling": Oversampling(), "reward": Planned(breaks_at)} | settings.get("rollout", {})
    return make_run(folder, **(settings | {"rollout": rollout}))


def watched(run: Run) -> list[RolloutBatch]:
    """The batches that the run will train on."""
    seen: list[RolloutBatch] = []
    step = run.module.training_step

    def training_step(batch: RolloutBatch, batch_idx: int) -> None:
        seen.append(batch)
        step(batch, batch_idx)

    run.module.training_step = training_step  # type: ignore[method-assign]
    return seen


def sampling(folder: Path, **changes: Any) -> Run:
    """The same, and the policy itself samples."""
    return oversampled(folder, **({"sampler": TransformersSampler(max_wait_s=60.0), "every": 100} | changes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[RolloutBatch]]:
    """A run that is never stopped, and its batches."""
    run = sampling(tmp_path_factory.mktemp("whole"))
    batches = watched(run)
    return run.fit(), batches


def check_trained(batches: list[RolloutBatch], expected: list[list[int]]) -> None:
    for iteration, (batch, positions) in enumerate(zip(batches, expected, strict=True)):
        assert [one.group_id for one in batch.trained[::4]] == [f"0-{iteration}-{position}" for position in positions]
        assert (
            len(batch.trained) == 4 * len(positions) == (0 if batch.policy_batch is None else len(batch.policy_batch))
        )
        assert [one.index for one in batch.trajectories] == list(range(4 * len(PLAN[iteration])))


@pytest.mark.slow
def test_an_iteration_trains_on_the_groups_with_a_signal(whole: tuple[Run, list[RolloutBatch]]) -> None:
    check_trained(whole[1], [[1, 3], [], [0, 1], [0, 2], [2, 4]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("without_signal", "expected"),
    [("keep_correct", [[1, 2, 3], []]), ("keep", [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])],
)
def test_others_stay_where_the_setting_says_so(tmp_path: Path, without_signal: Any, expected: list[list[int]]) -> None:
    run = oversampled(tmp_path, iterations=2, rollout={"oversampling": Oversampling(without_signal=without_signal)})
    batches = watched(run)
    run.fit()
    check_trained(batches, expected)


def test_the_bound_and_what_llds_loses_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "PLAN", ["ww" + "wwww"] * 2)
        oversampled(tmp_path, iterations=2).fit()
    assert caplog.text.count("0 of the 2 groups with a signal that an iteration wants, after 6 prompts") == 1
    assert caplog.text.count("which LLDS (`preserve: non_negative`) would preserve") == 1


@pytest.mark.slow
def test_signals_are_of_all_that_was_sampled_and_the_trained_reward_is_apart(
    whole: tuple[Run, list[RolloutBatch]],
) -> None:
    found = by_iteration(whole[0].folder)
    wanted = ["rounds", "groups_drawn", "groups_with_signal", "groups_all_correct", "groups_all_wrong"]
    counts = [[float(found[f"{number}.0"][f"rollout/{name}"]) for name in wanted] for number in range(1, 6)]
    assert counts == [[2, 4, 2, 1, 1], [2, 6, 0, 0, 6], [1, 2, 2, 0, 0], [2, 4, 3, 1, 0], [2, 6, 2, 2, 2]]
    # wrong 0, mixed 1/4, right 1, mixed 1/4
    assert float(found["1.0"]["reward/mean"]) == pytest.approx(1.5 / 4)
    assert float(found["1.0"]["reward/mean_trained"]) == pytest.approx(1 / 4)
    assert float(found["1.0"]["reward/informative_groups"]) == 1 / 2
    assert float(found["2.0"]["reward/mean"]) == 0
    assert "reward/mean_trained" not in found["2.0"]
    assert float(found["3.0"]["rollout/further_tokens"]) == 0
    assert 0.2 < float(found["1.0"]["rollout/further_tokens"]) < 0.8
    assert {row["rollout/dropped"] for row in found.values()} == {"0.0"}  # nothing failed


@pytest.mark.slow
def test_further_prompts_come_next_in_the_stream_and_are_seen(whole: tuple[Run, list[RolloutBatch]]) -> None:
    run, batches = whole
    loader = run.trainer.train_dataloader
    drawn = [prompt.prompt_id for batch in batches for prompt in batch.prompts]
    stream = [loader.prompts[number].prompt_id for turn in range(2) for number in loader.order(turn)]
    assert drawn == stream[: 4 + 6 + 2 + 4 + 6]
    assert (loader.position, loader.further) == (5, 12)
    for batch in batches:
        assert [one.prompt.prompt_id for one in batch.trajectories[::4]] == [one.prompt_id for one in batch.prompts]
    # more than a pass of 12 prompts, and none came back before its turn
    assert {row["data/repeated_prompts"] for row in by_iteration(run.folder).values()} == {"0.0"}


def check_equal(resumed: Run, whole: Run) -> None:
    assert by_iteration(resumed.folder) == by_iteration(whole.folder)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())
    assert resumed.trainer.train_dataloader.state_dict() == whole.trainer.train_dataloader.state_dict()


def killed(folder: Path, **changes: Any) -> None:
    """Train three iterations, and lose the last checkpoint: as if it had been killed after that of the second."""
    sampling(folder, **changes, limit_train_batches=3, every=2).fit()
    (folder / "checkpoints" / "iteration-000003.ckpt").unlink()


@pytest.mark.slow
def test_a_run_that_resumes_equals_one_that_was_never_stopped(
    tmp_path: Path, whole: tuple[Run, list[RolloutBatch]]
) -> None:
    killed(tmp_path)
    check_equal(sampling(tmp_path).fit(resume=True), whole[0])


@pytest.mark.slow
def test_a_run_that_breaks_off_between_two_rounds_does_the_iteration_again_from_its_first_prompt(
    tmp_path: Path, whole: tuple[Run, list[RolloutBatch]]
) -> None:
    with pytest.raises(ConfigurationError, match="got RuntimeError: stop"):
        sampling(tmp_path, breaks_at=(3, 2)).fit()
    check_equal(sampling(tmp_path).fit(resume=True), whole[0])


@pytest.mark.slow
def test_with_overlap_only_the_first_round_is_a_version_behind_and_a_run_resumes_to_the_bit(tmp_path: Path) -> None:
    changes = {"rollout": {"overlap": True}, "module": {"importance_correction": ImportanceCorrection()}}
    run = sampling(tmp_path / "whole", **changes)
    batches = watched(run)
    run.fit()
    versions = [[one.policy_version for one in batch.trajectories[::4]] for batch in batches]
    assert versions == [[0] * 4, [0, 0, 1, 1, 1, 1], [1, 1], [2, 2, 3, 3], [3, 3, 4, 4, 4, 4]]
    killed(tmp_path / "part", **changes)
    check_equal(sampling(tmp_path / "part", **changes).fit(resume=True), run)


@pytest.mark.slow
def test_the_rounds_of_an_iteration_sample_as_one_larger_batch_would(
    tmp_path: Path, whole: tuple[Run, list[RolloutBatch]]
) -> None:
    run = make_run(tmp_path, iterations=1, sampler=TransformersSampler(max_wait_s=60.0))
    run.data.batch_size = len(PLAN[0])
    larger = watched(run)
    run.fit()
    assert [one.token_ids for one in whole[1][0].trajectories] == [one.token_ids for one in larger[0].trajectories]


def test_too_many_failures_stop_the_run_before_further_prompts_are_drawn(tmp_path: Path) -> None:
    def script(iteration: int, trajectory: int, turn: int) -> str | Exception:
        return SamplerError("engine down") if trajectory < 6 else answers(iteration, trajectory, turn)

    run = oversampled(tmp_path, sampler=scripted(script))
    with pytest.raises(TooManyFailuresError, match="6 of 8"):
        run.fit()
    assert run.trainer.train_dataloader.further == 0


@pytest.mark.slow
def test_groups_that_failures_emptied_are_drawn_anew(tmp_path: Path) -> None:
    def script(iteration: int, trajectory: int, turn: int) -> str | Exception:
        is_lost = (iteration, trajectory) in [(2, 0), (2, 1), (2, 2)]  # one is left of a mixed group
        return SamplerError("engine down") if is_lost else answers(iteration, trajectory, turn)

    run = oversampled(tmp_path, sampler=scripted(script), iterations=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "PLAN", [*PLAN[:2], "mmrm"])
        batches = watched(run)
        run.fit()
    assert [one.group_id for one in batches[2].trained[::4]] == ["0-2-1", "0-2-3"]


def test_evaluations_draw_nothing(tmp_path: Path) -> None:
    class Watched(RolloutCallback):
        evaluated = 0

        def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: RolloutBatch, *args: Any) -> None:
            super().on_validation_batch_start(trainer, pl_module, batch, *args)
            Watched.evaluated += len(batch.trajectories)

    class Silent(Planned):
        def __call__(self, trajectory: Trajectory) -> float:
            return super().__call__(trajectory) if trajectory.group_id.startswith("0-") else 0.0

    run = oversampled(
        tmp_path, iterations=1, validation=DataSource(QUESTIONS.path, limit=3), rollout={"reward": Silent()}
    )
    rollout = next(one for one in run.trainer.callbacks if isinstance(one, RolloutCallback))  # type: ignore[attr-defined]
    rollout.__class__ = Watched
    run.fit()
    assert Watched.evaluated == 3


@pytest.mark.parametrize(
    ("oversampling", "penalty", "message"),
    [
        (Oversampling(1.4), LLDSPenalty(), r"max_factor` times `data\.batch_size` \(2\).*got 1\.4"),
        (
            Oversampling(without_signal="keep"),
            None,
            r"without_signal` to be `drop` where nothing learns from .*got `keep`",
        ),
        (Oversampling(without_signal="keep"), LLDSPenalty(0.0), "got `keep`"),
        (Oversampling(without_signal="keep_correct"), LLDSPenalty(preserve="positive"), "got `keep_correct`"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, oversampling: Oversampling, penalty: LLDSPenalty | None, message: str
) -> None:
    run = oversampled(tmp_path, rollout={"oversampling": oversampling}, module={"llds_penalty": penalty})
    with pytest.raises(ConfigurationError, match=message):
        run.fit()
