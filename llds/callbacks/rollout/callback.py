"""The rollout: before each batch is trained on or evaluated, its prompts become rewarded trajectories.

Mutates the batch: adds trajectories, rewards, and, in training, the tensors to train on.

Left out on purpose: how trajectories are collected and how an episode goes (`llds.rollout`), what ranks do together
(`collective`), the weights of the sampler (`weight_sync`), the overlap of iterations (`overlap`), and the training on
the tensors (`llds.modules`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import lightning.pytorch as pl

from llds.batches import PolicyBatch, RolloutBatch
from llds.batches.answer_span import answer_spans
from llds.batches.policy_batch import collate
from llds.callbacks.rollout.checks import check_law, check_limits, check_overlap, check_oversampling, check_template
from llds.callbacks.rollout.collective import CollectiveRollouts, fill
from llds.callbacks.rollout.information_gain import check_estimator_of, with_gain
from llds.callbacks.rollout.overlap import NextRollout
from llds.callbacks.rollout.oversampling import Oversampler
from llds.callbacks.rollout.trained_ids import check_trained_ids
from llds.callbacks.rollout.weight_sync import WeightSync, attach_policy, sampled_policy
from llds.data import PromptDataModule, PromptLoader
from llds.metrics import abandoned_metrics, rollout_metrics
from llds.modules import SearchAgentModule
from llds.rewards import ExactMatchReward, Reward
from llds.rollout import (
    Collection,
    Correctness,
    EpisodeLimits,
    EpisodeWatcher,
    FailurePolicy,
    Oversampling,
    RewardCalls,
    Rollout,
    RolloutCollector,
    RolloutUnderWay,
    Stragglers,
    ToolCallPolicy,
)
from llds.rollout.scoring import Scoring
from llds.samplers import SampledPolicy, Sampler, TransformersSampler
from llds.samplers.canary import CanaryLimits
from llds.strategies import rank, together, world_size
from llds.types import Prompt, SamplingParams, Trajectory

_TRAINING, _EVALUATION, _OUTSIDE = 0, 1, 2
"""What a collection is for: part of its seed."""


class RolloutCallback(pl.Callback):
    """Rolls out every batch.

    Args:
        group_size: Trajectories of each training prompt.
        sampler: Generates actions; None is the trainer's own policy.
        reward: Scores a trajectory; None is exact match.
        correct: When a trajectory is correct, for signals, probes and detector; None asks the reward, which by default
            means exact match.
        sampling: The sampling law in training.
        eval_sampling: The sampling law in validation, test and predict; greedy by default.
        limits: Limits of an episode in training.
        eval_limits: Limits of an episode in validation, test and predict.
        tool_calls: Deadline and retries of a tool call.
        reward_calls: Of a reward that asks a server.
        on_failure: What becomes of the group of a failed trajectory: the others stay ("drop_trajectory"; a group of
            one that remains is dropped too), or all go ("drop_group").
        max_failed: Share of failed trajectories in one iteration, 0-1, above which the run stops.
        seed: Seed of the sampling; None takes the run's, ``seed_everything`` (from Python: 0).
        overlap: Whether the next iteration's trajectories are sampled while this one trains, by the weights before its
            updates. Needs `model.importance_correction` and a sampler that can.
        stragglers: When an iteration's last trajectories are abandoned, which then leave their group by `on_failure`;
            None waits for all. Biased towards short trajectories, and not reproducible: it goes by time.
        oversampling: How far an iteration goes on drawing prompts in place of those whose group has no signal; None
            draws none. Biased towards prompts of middling difficulty.
        canary: How far engines may be from the trainer after an update of their weights, before the run stops.

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
        correct: Correctness | None = None,
        sampling: SamplingParams = SamplingParams(),
        eval_sampling: SamplingParams = SamplingParams(temperature=0.0),
        limits: EpisodeLimits = EpisodeLimits(),
        eval_limits: EpisodeLimits = EpisodeLimits(turns=4),
        tool_calls: ToolCallPolicy = ToolCallPolicy(),
        reward_calls: RewardCalls = RewardCalls(),
        on_failure: Literal["drop_trajectory", "drop_group"] = "drop_trajectory",
        max_failed: float = 0.5,
        seed: int | None = None,
        overlap: bool = False,
        stragglers: Stragglers | None = None,
        oversampling: Oversampling | None = None,
        canary: CanaryLimits = CanaryLimits(),
    ) -> None:
        check_law(group_size, sampling, seed or 0)
        self.group_size = group_size
        self.sampler = sampler or TransformersSampler()
        self.reward = reward or ExactMatchReward()
        self.scoring = Scoring(self.reward, correct, reward_calls)
        self.sampling = sampling
        self.eval_sampling = eval_sampling
        self.limits = limits
        self.eval_limits = eval_limits
        self.tool_calls = tool_calls
        self.failures = FailurePolicy(on_failure, max_failed)
        self.seed = seed or 0
        self.overlap = overlap
        self.stragglers = stragglers
        self.oversampling = oversampling
        self.canary = canary
        self.watcher: EpisodeWatcher | None = None
        self._ranks: CollectiveRollouts | None = None
        self._next = NextRollout(group_size)
        self._oversampler = None if oversampling is None else Oversampler(oversampling, self.failures)
        self._policy: SampledPolicy | None = None

    def setup(self, trainer: pl.Trainer, pl_module: SearchAgentModule, stage: str) -> None:
        """Tell the module the temperature, and check the settings against those of data and model.

        Raises:
            ConfigurationError: If they do not fit each other.
        """
        together(partial(pl_module.check, stage))
        pl_module.temperature = self.sampling.temperature
        data = cast(PromptDataModule, trainer.datamodule)  # type: ignore[attr-defined]
        check_template(data.template, pl_module.opening_tool is not None, pl_module.environment is not None)
        if stage == "fit":
            check_estimator_of(pl_module.advantages, self.reward)
            if self.overlap:
                check_overlap(pl_module.objective, self.sampler)
            if self.oversampling is not None:
                check_oversampling(self.oversampling, pl_module.objective, pl_module.advantages, data.batch_size)
            check_limits("limits", self.limits, pl_module, data.max_prompt_tokens)
        if stage != "fit" or "validation" in data.prompts:
            check_limits("eval_limits", self.eval_limits, pl_module, data.max_prompt_tokens)
        self._policy = sampled_policy(trainer, pl_module, max(self.limits.total_tokens, self.eval_limits.total_tokens))
        together(partial(self.sampler.prepare, self._policy))

    # From prompts to tensors

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Roll out the batch's prompts, choose what is trained on, and make the tensors of it."""
        self._next.reach(pl_module.iteration)
        ranks, wanted = self._start(pl_module), len(batch.prompts)
        with batch.timed("rollout"):
            rollouts = self._roll_out(trainer, pl_module, batch, ranks)
            if self.overlap and batch_idx + 1 < trainer.num_training_batches:
                self._begin_next(trainer, pl_module, ranks)
            else:
                ranks.rest()
        chosen, signals = self._choose(rollouts, wanted)
        batch.metrics.hand_in(
            "rollout", rollout_metrics(batch.trajectories, pl_module.iteration), ranks.weights.metrics, signals
        )
        if chosen:
            with batch.timed("score"):
                batch.trained, batch.policy_batch = chosen, self.tensors(pl_module, chosen)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule, *_: Any) -> None:
        """Forget the iteration's rollout, before a checkpoint is written that holds the next one's."""
        self._next.reach(pl_module.iteration)

    def _roll_out(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, ranks: CollectiveRollouts
    ) -> list[Rollout]:
        """The rollout of an iteration's prompts, and those of further prompts; the batch gets what came of them."""
        collection = self._collection(pl_module.iteration)
        begun = self._next.take(pl_module.iteration, batch.prompts, pl_module.all_tools)
        rollouts = [ranks.finish(begun or self._begin(ranks, batch.prompts, collection), collection)]
        if self._oversampler is not None:
            loader = cast(PromptLoader, trainer.train_dataloader)

            def roll_out(prompts: list[Prompt], before: int) -> Rollout:
                return self._collect(ranks, prompts, replace(collection, first_position=before))

            rollouts += self._oversampler.roll_out_further(batch, rollouts[0], loader.draw, roll_out)
        fill(batch, rollouts)
        return rollouts

    def _begin(self, ranks: CollectiveRollouts, prompts: Sequence[Prompt], collection: Collection) -> RolloutUnderWay:
        """Begin to roll out this rank's share of the prompts, by the policy's present weights."""
        ranks.weights.update()
        return ranks.collector.begin(prompts, collection)

    def _choose(self, rollouts: Sequence[Rollout], wanted: int) -> tuple[list[Trajectory], dict[str, float]]:
        """What is trained on: trajectories that did not fail, of groups with a signal; and the signals of the choice.

        Raises:
            TooManyFailuresError: If too many failed.
        """
        trajectories = [one for rollout in rollouts for one in rollout.trajectories]
        self.failures.check(trajectories)
        kept = self.failures.survivors(trajectories)
        signals = {"rollout/dropped": 1 - len(kept) / len(trajectories)}
        if self.stragglers is not None:
            signals |= abandoned_metrics(trajectories)
        if self._oversampler is not None:
            kept, of_choice = self._oversampler.choose(rollouts, wanted)
            signals |= of_choice
        return kept, signals

    def tensors(self, pl_module: SearchAgentModule, trajectories: Sequence[Trajectory]) -> PolicyBatch:
        """What there is to train on in trajectories, scored.

        Args:
            pl_module: Scores.
            trajectories: At least one, none of them failed.
        """
        mark, masking = pl_module.protocol.answer_mark, pl_module.objective.answer_masking
        collated = collate(trajectories, answer_spans(trajectories, pl_module.tokenizer, mark, masking), self.reward)
        check_trained_ids(trajectories, collated)
        return pl_module.prepare(with_gain(collated, trajectories, pl_module))

    def _collection(self, iteration: int) -> Collection:
        seed = (self.seed, _TRAINING, iteration)
        share = (rank(), world_size())
        return Collection(self.group_size, self.sampling, self.limits, seed, share, self.stragglers)

    def _start(self, pl_module: SearchAgentModule) -> CollectiveRollouts:
        """What rolls out, made when the weights are there."""
        if self._ranks is None:
            assert self._policy is not None  # noqa: S101 (set by `setup`)
            attach_policy(self.sampler, pl_module, beside_training=self.overlap and pl_module.trainer.state.fn == "fit")
            weights = WeightSync(self.sampler, self._policy, pl_module, self.sampling, self.canary)
            collector = RolloutCollector(
                self.sampler,
                pl_module.tokenizer,
                pl_module.protocol,
                pl_module.agent_tools,
                self.tool_calls,
                pl_module.opening_tool,
                self.watcher,
                pl_module.environment,
            )
            self._ranks = CollectiveRollouts(collector, weights, self.sampler, self.scoring)
        return self._ranks

    # Beside the iterations

    def _begin_next(self, trainer: pl.Trainer, pl_module: SearchAgentModule, ranks: CollectiveRollouts) -> None:
        """Begin the next iteration's rollout, by the weights before this one's updates."""
        iteration, prompts = pl_module.iteration + 1, cast(PromptLoader, trainer.train_dataloader).peek()
        self._next.begun(iteration, prompts, self._begin(ranks, prompts, self._collection(iteration)))

    def _collect(self, ranks: CollectiveRollouts, prompts: Sequence[Prompt], collection: Collection) -> Rollout:
        """Roll out prompts by the present weights, once what is under way has ended."""
        self._next.settle()
        return ranks.finish(self._begin(ranks, prompts, collection), collection)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int, *_: Any
    ) -> None:
        """Roll out and reward the batch, one trajectory per prompt."""
        self._evaluate(pl_module, batch, batch_idx)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start  # type: ignore[assignment]

    def _evaluate(self, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int) -> None:
        seed = (self.seed, _EVALUATION, batch_idx)
        collection = Collection(1, self.eval_sampling, self.eval_limits, seed, (rank(), world_size()))
        fill(batch, [self._collect(self._start(pl_module), batch.prompts, collection)])

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
        ranks, whole_seed = self._start(pl_module), (self.seed, _OUTSIDE, *seed)
        collection = Collection(group_size, self.sampling, self.limits, whole_seed, (rank(), world_size()))
        trajectories = self._collect(ranks, prompts, collection).trajectories
        ranks.rest()
        return self.failures.survivors(trajectories)

    def weights_changed(self) -> None:
        """Hear that the policy got other weights than training gave it.

        What was begun with the old ones is given up, and the sampler gets the new ones before it is used again.
        """
        self._next.forget()
        if self._ranks is not None:
            self._ranks.forget()

    def state_dict(self) -> dict[str, Any]:
        """The next iteration's rollout, where one has begun."""
        return self._next.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with that rollout."""
        self._next.load_state_dict(state_dict)

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

    def _stop(self) -> None:
        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None
        self.sampler.close()
