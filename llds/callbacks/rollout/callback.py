"""The rollout: before each batch is trained on or evaluated, its prompts become rewarded trajectories.

Mutates the batch: adds trajectories, rewards, and, in training, the tensors to train on.

Left out on purpose: how an episode goes (`llds.rollout`), and what is trained on it (`llds.modules`).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import lightning.pytorch as pl

from llds.agent_tools import AgentTool
from llds.batches import PolicyBatch, RolloutBatch
from llds.batches.answer_span import answer_span
from llds.batches.policy_batch import collate
from llds.callbacks.rollout.checks import check_overlap, check_oversampling, check_room, check_template
from llds.callbacks.rollout.collective import PolicyRollouts
from llds.callbacks.rollout.overlap import NextRollout
from llds.callbacks.rollout.oversampling import Rounds
from llds.callbacks.rollout.trained_ids import check_trained_ids
from llds.callbacks.rollout.weight_sync import sampled_policy
from llds.data import PromptDataModule, PromptLoader
from llds.errors import ConfigurationError
from llds.metrics import abandoned_metrics, rollout_metrics
from llds.modules import SearchAgentModule
from llds.rewards import ExactMatchReward, Reward
from llds.rollout import (
    Collection,
    EpisodeLimits,
    EpisodeWatcher,
    FailurePolicy,
    ObservationEncoder,
    Oversampling,
    Rollout,
    Stragglers,
    ToolCallPolicy,
)
from llds.samplers import SampledPolicy, Sampler, TransformersSampler
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
        oversampling: How far an iteration goes on drawing prompts in place of those whose group has no signal; None
            draws none. Biased towards prompts of middling difficulty.

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
        oversampling: Oversampling | None = None,
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
        self.group_size = group_size
        self.sampler = sampler or TransformersSampler()
        self.reward = reward or ExactMatchReward()
        self.sampling = sampling
        self.eval_sampling = eval_sampling
        self.limits = limits
        self.eval_limits = eval_limits
        self.tool_calls = tool_calls
        self.failures = FailurePolicy(on_failure, max_failed)
        self.seed = seed
        self.overlap = overlap
        self.stragglers = stragglers
        self.oversampling = oversampling
        self.watcher: EpisodeWatcher | None = None
        self._rollouts: PolicyRollouts | None = None
        self._next = NextRollout(group_size)
        self._rounds = None if oversampling is None else Rounds(oversampling, self.failures)
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
        check_template(module.template, has_opening)
        if stage == "fit":
            if self.overlap:
                check_overlap(pl_module.objective, self.sampler)
            if self.oversampling is not None:
                check_oversampling(self.oversampling, pl_module.objective, module.batch_size)
            check_room("limits", self.limits, module.max_prompt_tokens, has_opening)
            encoder.check_limit(self.limits.observation_tokens)
        if stage != "fit" or "validation" in module.prompts:
            check_room("eval_limits", self.eval_limits, module.max_prompt_tokens, has_opening)
            encoder.check_limit(self.eval_limits.observation_tokens)
        self._policy = sampled_policy(trainer, pl_module, max(self.limits.total_tokens, self.eval_limits.total_tokens))
        together(partial(self.sampler.prepare, self._policy))

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
        self._next.reach(pl_module.iteration)
        rollouts, wanted = self._start(pl_module), len(batch.prompts)
        with timed(batch, "rollout"):
            rounds = self._roll_out(trainer, pl_module, batch, rollouts)
            if self.overlap and batch_idx + 1 < trainer.num_training_batches:
                self._begin_next(trainer, pl_module, rollouts)
            else:
                rollouts.rest()
        batch.metrics |= rollout_metrics(batch.trajectories, pl_module.iteration) | rollouts.metrics
        if self.stragglers is not None:
            batch.metrics |= abandoned_metrics(batch.trajectories)
        self.failures.check(batch.trajectories)
        kept = self.failures.survivors(batch.trajectories)
        batch.metrics["rollout/dropped"] = 1 - len(kept) / len(batch.trajectories)
        if self._rounds is not None:
            kept, metrics = self._rounds.choose(rounds, wanted)
            batch.metrics |= metrics
        if kept:
            with timed(batch, "score"):
                batch.policy_batch = self.tensors(pl_module, kept)
                batch.trained = kept

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule, *_: Any) -> None:
        """Forget the iteration's rollout, before a checkpoint is written that holds the next one's."""
        self._next.reach(pl_module.iteration)

    def _roll_out(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, rollouts: PolicyRollouts
    ) -> list[Rollout]:
        """All rounds of an iteration; the batch gets what came of them."""
        collection = self._collection(pl_module.iteration)
        under_way = self._next.take(pl_module.iteration, batch.prompts, _tools(pl_module))
        rounds = [rollouts.finish(under_way or rollouts.begin(batch.prompts, collection), collection)]
        if self._rounds is not None:
            prompts, further = self._rounds.further(
                batch.prompts,
                rounds[0],
                cast(PromptLoader, trainer.train_dataloader).draw,
                lambda prompts, before: rollouts.collect(prompts, replace(collection, first_position=before)),
            )
            batch.prompts, rounds = [*batch.prompts, *prompts], [*rounds, *further]
            batch.timings["further_sampling"] = sum(one.seconds for one in further)
        _fill(batch, rounds)
        return rounds

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
        return self.failures.survivors(trajectories)

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
        _fill(batch, [self._collect(pl_module, batch.prompts, collection)])

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
        self._next.forget()
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop the event loop and the sampler; what an interrupted run then saves keeps what was begun ahead."""
        is_interrupt = isinstance(exception, (KeyboardInterrupt, SystemExit)) and world_size() == 1
        if is_interrupt and isinstance(pl_module, SearchAgentModule) and not pl_module.is_updating:
            self._next.settle_before_stopping()
        else:
            self._next.forget()
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
        if self._rollouts is not None:
            self._rollouts.close()
            self._rollouts = None
        self.sampler.close()

    def _answer_spans(self, pl_module: SearchAgentModule, trajectories: Sequence[Trajectory]) -> list[range] | None:
        penalty = pl_module.objective.active_llds
        if penalty is None or penalty.answer_masking is None:
            return None
        within, tag = penalty.answer_masking.last_tokens, pl_module.protocol.answer_tag
        return [answer_span(trajectory, pl_module.tokenizer, tag, within) for trajectory in trajectories]


def _fill(batch: RolloutBatch, rounds: Sequence[Rollout]) -> None:
    batch.trajectories = [trajectory for rollout in rounds for trajectory in rollout.trajectories]
    for rollout in rounds:
        for tool, statistics in rollout.tool_statistics.items():
            batch.tool_statistics.setdefault(tool, []).append(statistics)
    batch.timings["sampling"] = sum(rollout.seconds for rollout in rounds)


def _tools(pl_module: SearchAgentModule) -> list[AgentTool]:
    return [*pl_module.agent_tools, *([pl_module.opening_tool] if pl_module.opening_tool else [])]


@contextmanager
def timed(batch: RolloutBatch, phase: str) -> Iterator[None]:
    """Record the seconds of a phase on the batch."""
    started = time.perf_counter()
    try:
        yield
    finally:
        batch.timings[phase] = time.perf_counter() - started
