"""The rollout: before each batch is trained on or evaluated, its prompts become rewarded trajectories.

Mutates the batch: adds trajectories, rewards, and, in training, the tensors to train on.

Left out on purpose: how an episode goes (`llds.rollout`), and what is trained on it (`llds.modules`).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, cast

import lightning.pytorch as pl

from llds.agent_tools import AgentTool
from llds.callbacks.overlap import NextRollout
from llds.callbacks.policy_rollouts import PolicyRollouts
from llds.callbacks.trained_ids import check_trained_ids
from llds.callbacks.weight_sync import sampled_policy
from llds.data import PolicyBatch, PromptDataModule, PromptLoader, PromptTemplate, RolloutBatch
from llds.data.answer_span import answer_span
from llds.data.policy_batch import collate
from llds.errors import ConfigurationError, TooManyFailuresError
from llds.metrics import abandoned_metrics, by_group, rollout_metrics
from llds.modules import SearchAgentModule
from llds.rewards import ExactMatchReward, Reward
from llds.rollout import (
    Collection,
    EpisodeLimits,
    EpisodeWatcher,
    ObservationEncoder,
    Rollout,
    SampledPolicy,
    Sampler,
    Stragglers,
    ToolCallPolicy,
    TransformersSampler,
)
from llds.strategies import rank, together, world_size
from llds.types import Prompt, SamplingParams, Trajectory

_TRAINING, _EVALUATION, _OUTSIDE = 0, 1, 2


class RolloutCallback(pl.Callback):
    """Rolls out every batch.

    Args:
        group_size: Trajectories of each training prompt.
        sampler: Generates actions; None is the trainer's own policy.
        reward: Scores a trajectory; None is exact match.
        sampling: The sampling law in training.
        eval_sampling: The sampling law in validation, test and predict; greedy by default.
        limits: Limits of an episode in training.
        eval_limits: Limits of an episode in validation, test and predict.
        tool_calls: Deadline and retries of a tool call.
        on_failure: What becomes of the group of a failed trajectory: the others stay ("drop_trajectory"; a group of
            one that remains is dropped too), or all go ("drop_group").
        max_failed: Share of failed trajectories in one iteration, 0-1, above which the run stops.
        seed: Seed of the sampling.
        overlap: Whether the next iteration's trajectories are sampled while this one trains, by the weights before its
            updates. Needs `model.importance_correction` and a sampler that can.
        stragglers: When an iteration's last trajectories are abandoned, which then leave their group by `on_failure`;
            None waits for all. Biased towards short trajectories, and not reproducible: it goes by time.

    Attributes:
        watcher: Sees the turns of all episodes as they come; set it before the first batch.

    Raises:
        ConfigurationError: If a value is out of its range.
    """

    def __init__(
        self,
        group_size: int = 5,
        sampler: Sampler | None = None,
        reward: Reward | None = None,
        sampling: SamplingParams = SamplingParams(),
        eval_sampling: SamplingParams = SamplingParams(temperature=0.0),
        limits: EpisodeLimits = EpisodeLimits(),
        eval_limits: EpisodeLimits = EpisodeLimits(turns=4),
        tool_calls: ToolCallPolicy = ToolCallPolicy(),
        on_failure: Literal["drop_trajectory", "drop_group"] = "drop_trajectory",
        max_failed: float = 0.5,
        seed: int = 0,
        overlap: bool = False,
        stragglers: Stragglers | None = None,
    ) -> None:
        if group_size < 2:
            raise ConfigurationError(
                f"Expected `rollout.group_size` >= 2 so that a trajectory can be compared with another of its prompt, "
                f"got {group_size}: every advantage would be 0. Raise it."
            )
        if sampling.temperature <= 0 or sampling.top_p < 1 or sampling.top_k > 0:
            raise ConfigurationError(
                "Expected `rollout.sampling` to have temperature > 0, top_p = 1 and top_k = 0, because the trainer "
                f"scores actions under the whole distribution, got {sampling}. Restrict `eval_sampling` instead."
            )
        if seed < 0:
            raise ConfigurationError(f"Expected `rollout.seed` >= 0, got {seed}.")
        if not 0 <= max_failed <= 1:
            raise ConfigurationError(f"Expected `rollout.max_failed` to be a share in [0, 1], got {max_failed}.")
        self.group_size = group_size
        self.sampler = sampler or TransformersSampler()
        self.reward = reward or ExactMatchReward()
        self.sampling = sampling
        self.eval_sampling = eval_sampling
        self.limits = limits
        self.eval_limits = eval_limits
        self.tool_calls = tool_calls
        self.on_failure = on_failure
        self.max_failed = max_failed
        self.seed = seed
        self.overlap = overlap
        self.stragglers = stragglers
        self.watcher: EpisodeWatcher | None = None
        self._rollouts: PolicyRollouts | None = None
        self._next = NextRollout(group_size)
        self._policy: SampledPolicy | None = None

    def setup(self, trainer: pl.Trainer, pl_module: SearchAgentModule, stage: str) -> None:
        """Tell the module the temperature, and check that prompts leave room for actions, and limits for observations.

        Raises:
            ConfigurationError: If they do not, or the prompt template does not fit the agent's tools.
        """
        together(partial(pl_module.check, stage))
        pl_module.temperature = self.sampling.temperature
        module = cast(PromptDataModule, trainer.datamodule)  # type: ignore[attr-defined]
        names = [tool.name for tool in pl_module.agent_tools]
        encoder = ObservationEncoder(pl_module.tokenizer, pl_module.protocol, names)
        has_opening = pl_module.opening_tool is not None
        _check_template(module.template, has_opening)
        if stage == "fit":
            self._check_overlap(pl_module)
            _check_room("limits", self.limits, module.max_prompt_tokens, has_opening)
            encoder.check_limit(self.limits.observation_tokens)
        if stage != "fit" or "validation" in module.prompts:
            _check_room("eval_limits", self.eval_limits, module.max_prompt_tokens, has_opening)
            encoder.check_limit(self.eval_limits.observation_tokens)
        self._policy = sampled_policy(trainer, pl_module, max(self.limits.total_tokens, self.eval_limits.total_tokens))
        together(partial(self.sampler.prepare, self._policy))

    def _check_overlap(self, pl_module: SearchAgentModule) -> None:
        if self.overlap and pl_module.objective.importance is None:
            raise ConfigurationError(
                "Expected `model.importance_correction` to be set where `rollout.overlap` is true, because "
                "trajectories are then sampled by older weights than those that train on them, got null. Set it, as "
                "conf/rollout/overlap.yaml does."
            )
        if self.overlap and not self.sampler.can_overlap:
            raise ConfigurationError(
                "Expected `rollout.sampler` to be one that can sample while the policy trains, where `rollout.overlap` "
                f"is true, got {type(self.sampler).__name__}. Use llds.rollout.TransformersSampler, or "
                "llds.rollout.VLLMServerSampler with `sleep: false`."
            )

    def _start(self, pl_module: SearchAgentModule) -> PolicyRollouts:
        if self._rollouts is None:
            assert self._policy is not None  # noqa: S101 (set by `setup`)
            self._rollouts = PolicyRollouts(
                self.sampler,
                self._policy,
                pl_module,
                self.sampling,
                self.reward,
                self.tool_calls,
                self.watcher,
                beside_training=self.overlap and pl_module.trainer.state.fn == "fit",
            )
        return self._rollouts

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Roll out, reward and score the batch."""
        rollouts = self._start(pl_module)
        with timed(batch, "rollout"):
            collection = self._collection(pl_module.iteration)
            under_way = self._next.take(pl_module.iteration, batch.prompts, _tools(pl_module))
            _fill(batch, rollouts.finish(under_way or rollouts.begin(batch.prompts, collection), collection))
            if self.overlap and batch_idx + 1 < trainer.num_training_batches:
                self._begin_next(trainer, pl_module, rollouts)
            else:
                rollouts.rest()
        batch.metrics |= rollout_metrics(batch.trajectories, pl_module.iteration) | rollouts.metrics
        if self.stragglers is not None:
            batch.metrics |= abandoned_metrics(batch.trajectories)
        self._check_failures(batch.trajectories)
        kept = self._without_failures(batch.trajectories)
        batch.metrics["rollout/dropped"] = 1 - len(kept) / len(batch.trajectories)
        if kept:
            with timed(batch, "score"):
                batch.policy_batch = self.tensors(pl_module, kept)
                batch.trained = kept

    def sample(
        self, pl_module: SearchAgentModule, prompts: Sequence[Prompt], group_size: int, seed: tuple[int, ...]
    ) -> list[Trajectory]:
        """Roll out and reward prompts outside of a batch, by the law of training; for probes.

        Args:
            pl_module: The present weights are used.
            prompts: With their token ids.
            group_size: Trajectories of each prompt.
            seed: Non-negative numbers; equal ones sample the same.

        Returns:
            Whole groups without failed trajectories, of all ranks, on every rank.
        """
        collection = Collection(
            group_size, self.sampling, self.limits, (self.seed, _OUTSIDE, *seed), (rank(), world_size())
        )
        trajectories = self._collect(pl_module, prompts, collection).trajectories
        self._start(pl_module).rest()
        return self._without_failures(trajectories)

    def tensors(self, pl_module: SearchAgentModule, trajectories: Sequence[Trajectory]) -> PolicyBatch:
        """What there is to train on in trajectories, scored.

        Args:
            pl_module: Scores.
            trajectories: At least one, none of them failed.
        """
        collated = collate(trajectories, self._answer_spans(pl_module, trajectories))
        check_trained_ids(trajectories, collated)
        return pl_module.prepare(collated)

    def _begin_next(self, trainer: pl.Trainer, pl_module: SearchAgentModule, rollouts: PolicyRollouts) -> None:
        """Begin the next iteration's rollout, by the weights before this one's updates."""
        iteration, prompts = pl_module.iteration + 1, cast(PromptLoader, trainer.train_dataloader).peek()
        self._next.begun(iteration, prompts, rollouts.begin(prompts, self._collection(iteration)))

    def _collection(self, iteration: int) -> Collection:
        seed = (self.seed, _TRAINING, iteration)
        share = (rank(), world_size())
        return Collection(self.group_size, self.sampling, self.limits, seed, share, self.stragglers)

    def _collect(self, pl_module: SearchAgentModule, prompts: Sequence[Prompt], collection: Collection) -> Rollout:
        """Roll out prompts beside the iterations, by the present weights, once what is under way has ended."""
        rollouts = self._start(pl_module)
        self._next.settle()
        return rollouts.collect(prompts, collection)

    def _evaluate(self, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int) -> None:
        seed = (self.seed, _EVALUATION, batch_idx)
        collection = Collection(1, self.eval_sampling, self.eval_limits, seed, (rank(), world_size()))
        _fill(batch, self._collect(pl_module, batch.prompts, collection))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int, *_: Any
    ) -> None:
        """Roll out and reward the batch, one trajectory per prompt."""
        self._evaluate(pl_module, batch, batch_idx)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int, *_: Any
    ) -> None:
        """Roll out and reward the batch, one trajectory per prompt."""
        self._evaluate(pl_module, batch, batch_idx)

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int, *_: Any
    ) -> None:
        """Roll out and reward the batch, one trajectory per prompt."""
        self._evaluate(pl_module, batch, batch_idx)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop the event loop and the sampler."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop the event loop and the sampler."""
        self._stop()

    def weights_changed(self) -> None:
        """Hear that the policy got other weights than training gave it.

        What was begun with the old ones is given up, and the sampler gets the new ones before it is used again.
        """
        self._next.forget()
        if self._rollouts is not None:
            self._rollouts.forget()

    def state_dict(self) -> dict[str, Any]:
        """The next iteration's rollout, where one has begun."""
        return self._next.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with that rollout."""
        self._next.load_state_dict(state_dict)

    def _stop(self) -> None:
        self._next.forget()
        if self._rollouts is not None:
            self._rollouts.close()
            self._rollouts = None
        self.sampler.close()

    def _check_failures(self, trajectories: Sequence[Trajectory]) -> None:
        failed = [one for one in trajectories if one.status == "failed" and one.failed_by != "time"]
        if len(failed) > self.max_failed * len(trajectories):
            raise TooManyFailuresError(
                f"Expected at most a share of {self.max_failed:g} failed trajectories per iteration "
                f"(`rollout.max_failed`), got {len(failed)} of {len(trajectories)}; the first: {failed[0].failure}. "
                "Mend the cause and resume with `--ckpt_path last`: nothing is lost."
            )

    def _without_failures(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        kept: list[Trajectory] = []
        for group in by_group(trajectories).values():
            alive = [trajectory for trajectory in group if trajectory.status != "failed"]
            if len(alive) == len(group) or (self.on_failure == "drop_trajectory" and len(alive) >= 2):
                kept += alive
        return kept

    def _answer_spans(self, pl_module: SearchAgentModule, trajectories: Sequence[Trajectory]) -> list[range] | None:
        penalty = pl_module.objective.active_llds
        if penalty is None or penalty.answer_masking is None:
            return None
        within, tag = penalty.answer_masking.last_tokens, pl_module.protocol.answer_tag
        return [answer_span(trajectory, pl_module.tokenizer, tag, within) for trajectory in trajectories]


def _fill(batch: RolloutBatch, rollout: Rollout) -> None:
    batch.trajectories, batch.tool_statistics = rollout.trajectories, rollout.tool_statistics
    batch.timings["sampling"] = rollout.seconds


def _tools(pl_module: SearchAgentModule) -> list[AgentTool]:
    return [*pl_module.agent_tools, *([pl_module.opening_tool] if pl_module.opening_tool else [])]


def _check_template(template: PromptTemplate, has_opening: bool) -> None:
    if template.has_opening != has_opening:
        found = "an opening tool and no such place" if has_opening else "the place and no opening tool"
        raise ConfigurationError(
            "Expected {observation} in `data.template.text` exactly where there is a `model.opening_tool`, whose words "
            f"stand there, got {found}. Change one of them."
        )


def _check_room(key: str, limits: EpisodeLimits, prompt_tokens: int, has_opening: bool) -> None:
    opening, words = (limits.observation_tokens, " plus the opening tool's observation") if has_opening else (0, "")
    if prompt_tokens + opening >= limits.total_tokens:
        raise ConfigurationError(
            f"Expected `data.max_prompt_tokens`{words} to be below `rollout.{key}.total_tokens` "
            f"({limits.total_tokens}), got {prompt_tokens}{f' + {opening}' if opening else ''}: the longest prompt "
            "would leave no room for an action. Change one of them."
        )


@contextmanager
def timed(batch: RolloutBatch, phase: str) -> Iterator[None]:
    """Record the seconds of a phase on the batch."""
    started = time.perf_counter()
    try:
        yield
    finally:
        batch.timings[phase] = time.perf_counter() - started
