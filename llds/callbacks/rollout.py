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

from llds.callbacks.trained_ids import check_trained_ids
from llds.callbacks.weight_sync import WeightSync, sampled_policy
from llds.data import PolicyBatch, PromptDataModule, PromptTemplate, RolloutBatch
from llds.data.answer_span import answer_span
from llds.data.policy_batch import collate
from llds.errors import ConfigurationError, TooManyFailuresError
from llds.metrics import by_group, rollout_metrics
from llds.modules import SearchAgentModule
from llds.rewards import ExactMatchReward, Reward
from llds.rollout import (
    Collection,
    EpisodeLimits,
    EpisodeWatcher,
    ObservationEncoder,
    RolloutCollector,
    SampledPolicy,
    Sampler,
    ToolCallPolicy,
    TransformersSampler,
)
from llds.strategies import gather, rank, together, world_size
from llds.types import Prompt, SamplingParams, Trajectory

_TRAINING, _EVALUATION, _OUTSIDE = 0, 1, 2

_RESAMPLINGS = 2
"""How often trajectories that the sampler lost are sampled anew in one iteration, before they count as failed."""


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
        self.watcher: EpisodeWatcher | None = None
        self._collector: RolloutCollector | None = None
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
            _check_room("limits", self.limits, module.max_prompt_tokens, has_opening)
            encoder.check_limit(self.limits.observation_tokens)
        if stage != "fit" or "validation" in module.prompts:
            _check_room("eval_limits", self.eval_limits, module.max_prompt_tokens, has_opening)
            encoder.check_limit(self.eval_limits.observation_tokens)
        self._policy = sampled_policy(trainer, pl_module, max(self.limits.total_tokens, self.eval_limits.total_tokens))
        together(partial(self.sampler.prepare, self._policy))

    def _collect(
        self, pl_module: SearchAgentModule, prompts: Sequence[Prompt], collection: Collection
    ) -> list[Trajectory]:
        """Roll out this rank's share of the prompts with the present weights, and reward.

        Returns:
            The trajectories of all ranks, on every rank, in the order of the prompts.
        """
        if self._collector is None:
            self._collector = self._start(pl_module)
        collector = self._collector
        self._sync.update()
        mine: list[Trajectory] = []
        together(lambda: mine.extend(collector.collect(prompts, collection)))
        if self.sampler.can_resample:
            self._resample_lost(collector, mine, collection)
        self.sampler.rest()
        by_rank = together(lambda: self._rewarded(mine))
        return sorted((one for share in by_rank for one in share), key=lambda trajectory: trajectory.index)

    def _rewarded(self, trajectories: list[Trajectory]) -> list[Trajectory]:
        for trajectory in trajectories:
            trajectory.reward = 0.0 if trajectory.status == "failed" else self.reward(trajectory)
        return trajectories

    def _start(self, pl_module: SearchAgentModule) -> RolloutCollector:
        if isinstance(self.sampler, TransformersSampler):
            policy = pl_module.policy
            model = policy.whole_copy() if policy.is_partitioned else policy.base_model
            is_live = not policy.is_partitioned
            self.sampler.attach(model, pl_module.tokenizer, pl_module.forward_context, is_live)
        assert self._policy is not None  # noqa: S101 (set by `setup`)
        self._sync = WeightSync(self.sampler, self._policy, pl_module, self.sampling)
        return RolloutCollector(
            self.sampler,
            pl_module.tokenizer,
            pl_module.protocol,
            pl_module.agent_tools,
            self.tool_calls,
            pl_module.opening_tool,
            self.watcher,
        )

    def _resample_lost(
        self, collector: RolloutCollector, trajectories: Sequence[Trajectory], collection: Collection
    ) -> None:
        """Sample whole what an engine lost by its failure; it was restarted, or others do its work."""
        for _ in range(_RESAMPLINGS):
            lost = [trajectory for trajectory in trajectories if trajectory.failed_by == "sampler"]
            if not any(gather(bool(lost))):
                return
            self._sync.update(is_forced=True)
            together(partial(collector.resample, lost, collection))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Roll out, reward and score the batch."""
        seed = (self.seed, _TRAINING, pl_module.iteration)
        with timed(batch, "rollout"):
            collection = Collection(self.group_size, self.sampling, self.limits, seed, (rank(), world_size()))
            batch.trajectories = self._collect(pl_module, batch.prompts, collection)
        batch.metrics |= rollout_metrics(batch.trajectories, pl_module.iteration) | self._sync.metrics
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
        return self._without_failures(self._collect(pl_module, prompts, collection))

    def tensors(self, pl_module: SearchAgentModule, trajectories: Sequence[Trajectory]) -> PolicyBatch:
        """What there is to train on in trajectories, scored.

        Args:
            pl_module: Scores.
            trajectories: At least one, none of them failed.
        """
        collated = collate(trajectories, self._answer_spans(pl_module, trajectories))
        check_trained_ids(trajectories, collated)
        return pl_module.prepare(collated)

    def _evaluate(self, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int) -> None:
        seed = (self.seed, _EVALUATION, batch_idx)
        collection = Collection(1, self.eval_sampling, self.eval_limits, seed, (rank(), world_size()))
        batch.trajectories = self._collect(pl_module, batch.prompts, collection)

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

    def _stop(self) -> None:
        if self._collector is not None:
            self._collector.close()
            self._collector = None
        self.sampler.close()

    def _check_failures(self, trajectories: Sequence[Trajectory]) -> None:
        failed = [trajectory for trajectory in trajectories if trajectory.status == "failed"]
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
