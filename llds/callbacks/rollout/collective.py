"""Rollouts by the policy's present weights: sent to the sampler, collected on every rank, rewarded, put together.

Left out on purpose: what is rolled out when, and what is trained on (`llds.callbacks.rollout.callback`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from llds.callbacks.rollout.weight_sync import WeightSync
from llds.modules import SearchAgentModule
from llds.rewards import Reward
from llds.rollout import Collection, EpisodeWatcher, Rollout, RolloutCollector, RolloutUnderWay, ToolCallPolicy
from llds.rollout.scoring import score
from llds.samplers import SampledPolicy, Sampler, TransformersSampler
from llds.strategies import gather, together
from llds.types import Prompt, SamplingParams, Trajectory

_RESAMPLINGS = 2
"""How often trajectories that the sampler lost are sampled anew in one iteration, before they count as failed."""


class PolicyRollouts:
    """Rolls out prompts on every rank; its methods are collective.

    Args:
        sampler: Generates actions.
        policy: What it was told of the policy.
        pl_module: Has the policy, its tokenizer and the agent's tools; the weights are loaded.
        sampling: The sampling law in training.
        reward: Scores a trajectory.
        tool_calls: Deadline and retries of a tool call.
        watcher: Sees the turns of all episodes as they come.
        beside_training: Whether rollouts go on while the policy is trained, so that the sampler needs its own weights.
    """

    def __init__(
        self,
        sampler: Sampler,
        policy: SampledPolicy,
        pl_module: SearchAgentModule,
        sampling: SamplingParams,
        reward: Reward,
        tool_calls: ToolCallPolicy,
        watcher: EpisodeWatcher | None,
        beside_training: bool,
    ) -> None:
        self.sampler = sampler
        self.reward = reward
        if isinstance(sampler, TransformersSampler):
            has_copy = beside_training or pl_module.policy.is_partitioned
            model = pl_module.policy.whole_copy() if has_copy else pl_module.policy.base_model
            sampler.attach(model, pl_module.tokenizer, pl_module.forward_context, is_live=not has_copy)
        self._sync = WeightSync(sampler, policy, pl_module, sampling)
        tools, opening_tool = pl_module.agent_tools, pl_module.opening_tool
        self.collector = RolloutCollector(
            sampler, pl_module.tokenizer, pl_module.protocol, tools, tool_calls, opening_tool, watcher
        )

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last time that the sampler got weights."""
        return self._sync.metrics

    def begin(self, prompts: Sequence[Prompt], collection: Collection) -> RolloutUnderWay:
        """Send the sampler the present weights and begin to roll out this rank's share of the prompts."""
        self._sync.update()
        return self.collector.begin(prompts, collection)

    def finish(self, under_way: RolloutUnderWay, collection: Collection) -> Rollout:
        """Wait for a rollout, sample anew what engines lost, and reward.

        Args:
            under_way: What `begin` returned.
            collection: What it was begun with.

        Returns:
            The trajectories of all ranks, on every rank, in the order of the prompts; statistics of this rank.
        """
        together(partial(self._wait, under_way))
        rollout = under_way.rollout
        if self.sampler.can_resample:
            self._resample_lost(rollout.trajectories, collection)
        by_rank = together(lambda: self._rewarded(rollout.trajectories))
        return replace(rollout, trajectories=sorted(_joined(by_rank), key=lambda trajectory: trajectory.index))

    def collect(self, prompts: Sequence[Prompt], collection: Collection) -> Rollout:
        """Begin and finish."""
        return self.finish(self.begin(prompts, collection), collection)

    def rest(self) -> None:
        """Let engines give their memory back; one that gives its weights up gets them again before the next rollout."""
        if self.sampler.rest():
            self._sync.forget()

    def forget(self) -> None:
        """Give up what is under way, and the sampler's weights with it."""
        self.collector.cancel()
        self._sync.forget()

    def close(self) -> None:
        """Stop the event loop."""
        self.collector.close()

    def _wait(self, under_way: RolloutUnderWay) -> None:
        """Wait, and return nothing, which is what the ranks then exchange: a rollout holds connections of its tools."""
        self.collector.wait(under_way)

    def _rewarded(self, trajectories: list[Trajectory]) -> list[Trajectory]:
        for trajectory in trajectories:
            trajectory.reward = score(self.reward, trajectory)
        return trajectories

    def _resample_lost(self, trajectories: Sequence[Trajectory], collection: Collection) -> None:
        """Sample whole what an engine lost by its failure; it was restarted, or others do its work."""
        for _ in range(_RESAMPLINGS):
            lost = [trajectory for trajectory in trajectories if trajectory.failed_by == "sampler"]
            if not any(gather(bool(lost))):
                return
            self._sync.update(is_forced=True)
            together(partial(self.collector.resample, lost, collection))


def _joined(by_rank: Sequence[Sequence[Trajectory]]) -> list[Trajectory]:
    return [trajectory for share in by_rank for trajectory in share]
