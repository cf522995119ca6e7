"""The rollout callback on real trainings: failures, refusals, the check of token ids, and the gap to the sampler."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llds.batches import PolicyBatch, RolloutBatch
from llds.batches.policy_batch import collate
from llds.callbacks import RolloutCallback, list_checkpoints
from llds.callbacks.rollout import weight_sync
from llds.callbacks.rollout.trained_ids import check_trained_ids
from llds.callbacks.rollout.weight_sync import WeightSync
from llds.data import DataSource, PromptTemplate
from llds.errors import ConfigurationError, LLDSError, SamplerError, TooManyFailuresError
from llds.modules import Policy
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rollout import EpisodeLimits
from llds.samplers import SampleRequest
from llds.types import Completion, SamplingParams
from tests.runs import POLICY, Oracle, Run, answers, by_iteration, make_run, scripted, tiny_policy
from tests.scripted_sampler import ScriptedSampler
from tests.trajectories import random_trajectories

SIGNALS = """
iteration step reward/mean reward/informative_groups rollout/tool_calls rollout/failed rollout/dropped
rollout/valid_action_rate rollout/first_action_match policy/entropy policy/ratio_max policy/behavior_gap_max
policy/behavior_gap_mean policy/log_likelihood_correct policy/log_likelihood_incorrect policy/kl_ref
policy/log_likelihood_correct_first policy/log_likelihood_correct_answer policy/clip_share llds/lld_rate
llds/lld_magnitude llds/displacement_correct llds/open_share train/loss train/policy_loss train/kl_loss
train/llds_loss train/grad_norm train/learning_rate train/nonfinite_step
"""

Script = Callable[[int, int, int], str | Exception]


def failing(*failed: tuple[int, int]) -> Script:
    """The answers, but these (iteration, trajectory) fail in their first turn."""

    def script(iteration: int, trajectory: int, turn: int) -> str | Exception:
        return (
            SamplerError("engine down") if (iteration, trajectory) in failed else answers(iteration, trajectory, turn)
        )

    return script


def trained_on(run: Run) -> list[PolicyBatch | None]:
    """Train and return what each iteration was trained on."""
    seen: list[PolicyBatch | None] = []
    step = type(run.module).training_step

    def training_step(batch: RolloutBatch, batch_idx: int) -> None:
        seen.append(batch.policy_batch)
        step(run.module, batch, batch_idx)

    run.module.training_step = training_step  # type: ignore[method-assign]
    run.fit()
    return seen


class Sleeper(ScriptedSampler):
    """An engine that gives its weights up when it rests; notes what happens to it."""

    events: list[str]

    def make_room(self) -> None:
        """Ask for memory, before a lost engine is started anew."""
        self.events.append("room")

    def start(self) -> list[str]:
        """Start, which takes memory."""
        assert self.events[-1] == "room"
        return []

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Wake up."""
        super().update_weights(weights, version)
        self.events.append(f"weights {version}")

    def rest(self) -> bool:
        """Fall asleep."""
        self.events.append("rest")
        return True

    async def sample(self, request: SampleRequest) -> Completion:
        """Work; asleep, it could not."""
        assert self.events[-1] != "rest"
        return await super().sample(request)

    def probe(self, requests: Sequence[SampleRequest]) -> dict[str, list[Completion]]:
        """Have something to check, as engines of their own have."""
        return {"the sleeper": [Completion([5], [math.nan], "length") for _ in requests]}


@pytest.mark.slow
def test_an_engine_that_gave_its_weights_up_gets_them_before_it_samples_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_sync, "mean_gap", lambda *_: 0.0)  # a script is no policy
    sampler = Sleeper(load_tokenizer(POLICY), lambda trajectory, turn: "<answer> a </answer>")
    sampler.events = []
    validation = DataSource("llds:quickstart/validation.jsonl", limit=5)
    run = make_run(
        tmp_path,
        iterations=2,
        sampler=sampler,
        validation=validation,
        val_check_interval=1,
        check_val_every_n_epoch=None,
    )
    run.data.eval_batch_size = 2  # three batches, with the same weights
    run.fit()
    # Trained on, with the memory of the engine; then validated and sampled from with the weights of the iteration.
    expected = ["room", "weights 0", "rest", "room", "weights 1", "rest", "room", "weights 2"]
    assert sampler.events == expected


def test_weights_that_were_sent_are_sent_again_only_when_they_are_to_be_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WeightSync, "_prove", lambda *_: 0.0)
    sampler = Sleeper(load_tokenizer(POLICY), lambda trajectory, turn: "")
    sampler.events = []
    policy: Any = SimpleNamespace(max_tokens=512, dtype="float32")
    weights = SimpleNamespace(weights=lambda as_saved: iter(()), is_partitioned=False)
    module: Any = SimpleNamespace(iteration=7, tokenizer=load_tokenizer(POLICY), policy=weights)
    sync = WeightSync(sampler, policy, module, SamplingParams())
    sync.update()
    sync.update()
    assert sampler.events == ["room", "weights 7"]
    sync.forget()  # as after going back to a checkpoint in the middle of an iteration
    sync.update()
    assert sampler.events == ["room", "weights 7"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("on_failure", "failed", "left"),
    [
        ("drop_trajectory", [0], [0, 0, 0, 1, 1, 1, 1]),
        ("drop_group", [0], [0, 0, 0, 0]),
        ("drop_trajectory", [0, 1, 2], [0, 0, 0, 0]),  # a group of one that remains has no baseline
        ("drop_trajectory", [1, 4], [0, 0, 0, 1, 1, 1]),
    ],
)
def test_failed_trajectories_leave_their_group_by_policy(
    tmp_path: Path, on_failure: str, failed: list[int], left: list[int]
) -> None:
    sampler = scripted(failing(*((0, trajectory) for trajectory in failed)))
    run = make_run(tmp_path, iterations=1, sampler=sampler, rollout={"on_failure": on_failure})
    [batch] = trained_on(run)
    assert batch is not None
    assert batch.groups.tolist() == left
    [row] = by_iteration(tmp_path).values()
    assert float(row["rollout/failed"]) == pytest.approx(len(failed) / 8)
    assert float(row["rollout/dropped"]) == pytest.approx(1 - len(left) / 8)


def test_an_iteration_of_failures_alone_is_counted_and_changes_nothing(tmp_path: Path) -> None:
    sampler = scripted(failing(*((0, trajectory) for trajectory in range(8))))
    run = make_run(tmp_path, iterations=1, sampler=sampler, rollout={"max_failed": 1.0})
    before = Policy(tiny_policy()).state_dict()
    assert trained_on(run) == [None]
    assert run.module.iteration == 1
    assert all(torch.equal(value, before[name]) for name, value in run.weights.items())
    [row] = by_iteration(tmp_path).values()
    assert (row["rollout/failed"], row["rollout/dropped"]) == ("1.0", "1.0")


@pytest.mark.slow
def test_too_many_failures_stop_the_run_with_a_checkpoint_that_goes_on_to_the_bit(tmp_path: Path) -> None:
    broken = scripted(failing(*((1, trajectory) for trajectory in range(5))))
    with pytest.raises(TooManyFailuresError, match=r"rollout\.max_failed.*5 of 8.*engine down"):
        make_run(tmp_path / "a", iterations=3, sampler=broken, every=10).fit()
    assert [path.name for path in list_checkpoints(tmp_path / "a")] == ["iteration-000001.ckpt"]
    resumed = make_run(tmp_path / "a", iterations=3, sampler=scripted(answers), every=10).fit(resume=True)
    whole = make_run(tmp_path / "b", iterations=3, sampler=scripted(answers), every=10).fit()
    assert all(torch.equal(value, whole.weights[name]) for name, value in resumed.weights.items())
    assert by_iteration(tmp_path / "a") == by_iteration(tmp_path / "b")
    with pytest.raises(ConfigurationError, match=r"`data\.iterations` to be at least the 3 that .*, got 2\. Raise it"):
        make_run(tmp_path / "a", iterations=2, sampler=scripted(answers)).fit(resume=True)
    done = make_run(tmp_path / "a", iterations=3, sampler=scripted(answers)).fit(resume=True)
    assert done.module.iteration == 3  # all are done: nothing is made again


@pytest.mark.slow
def test_half_of_the_trajectories_may_fail_by_default(tmp_path: Path) -> None:
    sampler = scripted(failing(*((0, trajectory) for trajectory in range(4))))
    assert make_run(tmp_path, iterations=1, sampler=sampler).fit().module.iteration == 1


@pytest.mark.parametrize("temperature", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_the_trainer_scores_actions_as_they_were_sampled(tmp_path: Path, temperature: float) -> None:
    rollout = {"sampling": SamplingParams(temperature)}
    run = make_run(tmp_path, iterations=2, rollout=rollout, module={"policy": POLICY}).fit()
    assert run.module.policy.training
    for row in by_iteration(tmp_path).values():
        assert 0 < float(row["policy/behavior_gap_max"]) <= 1e-4


def test_every_iteration_logs_its_signals_and_no_nan(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=2, sampler=scripted(answers)).fit()
    expected = set(SIGNALS.split())
    for number, row in enumerate(by_iteration(tmp_path).values(), start=1):
        assert not expected - set(row)
        assert all(math.isfinite(float(value)) for value in row.values())
        assert (float(row["iteration"]), int(row["step"])) == (number, 2 * number)
    assert {f"time/{phase}_s" for phase in ("rollout", "score", "update")} <= set(run.trainer.callback_metrics)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": 1}, r"rollout\.group_size.*got 1"),
        ({"sampling": SamplingParams(top_p=0.9)}, r"rollout\.sampling.*top_p=0\.9.*eval_sampling"),
        ({"sampling": SamplingParams(top_k=5)}, r"rollout\.sampling.*top_k=5"),
        ({"sampling": SamplingParams(temperature=0.0)}, r"rollout\.sampling.*temperature=0"),
        ({"max_failed": 1.5}, r"rollout\.max_failed.*1\.5"),
        ({"seed": -1}, r"rollout\.seed.*-1"),
    ],
)
def test_settings_that_cannot_train_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RolloutCallback(**settings)


@pytest.mark.parametrize("key", ["limits", "eval_limits"])
def test_prompts_that_leave_no_room_for_an_action_are_refused(tmp_path: Path, key: str) -> None:
    run = make_run(tmp_path, rollout={key: EpisodeLimits(total_tokens=64)})
    with pytest.raises(ConfigurationError, match=rf"data\.max_prompt_tokens.*rollout\.{key}\.total_tokens"):
        run.fit() if key == "limits" else run.trainer.test(run.module, run.data)


def test_an_opening_counts_as_part_of_the_longest_prompt(tmp_path: Path) -> None:
    run = make_run(tmp_path, module={"opening_tool": Oracle()}, rollout={"limits": EpisodeLimits(total_tokens=500)})
    run.data.template = PromptTemplate("{question} {observation}")
    with pytest.raises(ConfigurationError, match=r"plus the opening tool's observation .* \(500\), got 64 \+ 500"):
        run.fit()


@pytest.mark.parametrize(
    ("tool", "text", "found"),
    [
        (Oracle(), "{question}", "an opening tool and no such place"),
        (None, "{question} {observation}", "the place and no opening tool"),
    ],
)
def test_a_template_that_does_not_fit_the_opening_tool_is_refused(
    tmp_path: Path, tool: Oracle | None, text: str, found: str
) -> None:
    run = make_run(tmp_path, module={"opening_tool": tool})
    run.data.template = PromptTemplate(text)
    with pytest.raises(ConfigurationError, match=rf"`model\.opening_tool`.*got {found}"):
        run.fit()


def test_what_an_opening_tool_says_is_context_and_never_trained_on(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=1, sampler=scripted(answers), module={"opening_tool": Oracle()})
    run.data.template = PromptTemplate("Facts: {observation}\nQuestion: {question}\n")
    [batch] = trained_on(run)
    assert batch is not None
    for ids, index in zip(batch.input_ids, batch.action_index, strict=True):
        first = int((index >= 0).nonzero()[0])
        assert "Facts: Doc 1(Title" in run.module.tokenizer.decode(ids[:first])
        assert "Ghanaian.\nQuestion: " in run.module.tokenizer.decode(ids[:first])


def test_nothing_is_trained_on_tokens_that_were_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(*arguments: Any) -> PolicyBatch:
        batch = collate(*arguments)
        batch.input_ids[0, -1] = 5
        batch.input_ids[:, 0] += 1
        return batch

    monkeypatch.setattr("llds.callbacks.rollout.callback.collate", changed)
    run = make_run(tmp_path, sampler=scripted(answers))
    with pytest.raises(LLDSError, match=r"the token ids .* trajectory 0 "):
        run.fit()
    assert run.module.iteration == 0


def test_the_check_of_token_ids_sees_any_change_and_nothing_else() -> None:
    trajectories = random_trajectories()
    batch = collate(trajectories)
    check_trained_ids(trajectories, batch)
    ids, index = batch.input_ids.clone(), batch.action_index.clone()
    ids[3, 2] += 1
    index[5] = torch.where(index[5] == 1, 0, index[5])
    behind = batch.action_index.clone()
    behind[int(batch.lengths.argmin()), -1] = 0
    changes = [
        ("the token ids .* trajectory 3 ", replace(batch, input_ids=ids)),
        ("the action index .* trajectory 5 ", replace(batch, action_index=index)),
        ("no action in the padding", replace(batch, action_index=behind)),
        ("the token ids", collate(trajectories[::-1])),
    ]
    for message, changed in changes:
        with pytest.raises(LLDSError, match=message):
            check_trained_ids(trajectories, changed)
    trajectories[0].turns[0].behavior_log_probs.pop()
    with pytest.raises(LLDSError, match="one log-prob per action token"):
        check_trained_ids(trajectories, batch)
