"""What all ranks do together with a rollout: one collector and one set of weights in the sampler on each.

Left out on purpose: what is rolled out when, and what is trained on (`llds.callbacks.rollout.callback`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from llds.batches import RolloutBatch
from llds.callbacks.rollout.weight_sync import WeightSync
from llds.rollout import Collection, Rollout, RolloutCollector, RolloutUnderWay
from llds.rollout.scoring import Scoring
from llds.samplers import Sampler
from llds.strategies import gather, together
from llds.types import Trajectory

_RESAMPLINGS = 2
"""How often trajectories that the sampler lost are sampled anew in one iteration, before they count as failed."""


class CollectiveRollouts:
    """Ends rollouts on all ranks alike; its methods are collective.

    Args:
        collector: Collects this rank's share.
        weights: Keeps the sampler at the policy's weights.
        sampler: Generates actions.
        scoring: Scores trajectories.

    Attributes:
        collector: The same.
        weights: The same.
    """

    def __init__(self, collector: RolloutCollector, weights: WeightSync, sampler: Sampler, scoring: Scoring) -> None:
        self.collector = collector
        self.weights = weights
        self._sampler = sampler
        self._scoring = scoring
        decode = collector.tokenizer.decode
        scoring.reward.attach(lambda ids: str(decode(list(ids), skip_special_tokens=True)))

    def finish(self, under_way: RolloutUnderWay, collection: Collection) -> Rollout:
        """Wait for a rollout, sample anew what engines lost, and reward.

        Args:
            under_way: What the collector began.
            collection: What it was begun with.

        Returns:
            The trajectories of all ranks, on every rank, in the order of the prompts; statistics of this rank.
        """
        together(partial(self._wait, under_way))
        rollout = under_way.rollout
        if self._sampler.can_resample:
            self._resample_lost(rollout.trajectories, collection)
        by_rank = together(lambda: self._rewarded(rollout.trajectories))
        trajectories = [trajectory for share in by_rank for trajectory in share]
        return replace(rollout, trajectories=sorted(trajectories, key=lambda trajectory: trajectory.index))

    def rest(self) -> None:
        """Let engines give their memory back; one that gives its weights up gets them again before the next rollout."""
        if self._sampler.rest():
            self.weights.forget()

    def forget(self) -> None:
        """Give up what is under way, and the sampler's weights with it."""
        self.collector.cancel()
        self.weights.forget()

    def close(self) -> None:
        """Stop the event loop."""
        self.collector.close()

    def _wait(self, under_way: RolloutUnderWay) -> None:
        """Wait, and return nothing, which is what the ranks then exchange: a rollout holds connections of its tools."""
        self.collector.wait(under_way)

    def _rewarded(self, trajectories: list[Trajectory]) -> list[Trajectory]:
        self._scoring.score(trajectories, self.collector.run)
        return trajectories

    def _resample_lost(self, trajectories: Sequence[Trajectory], collection: Collection) -> None:
        """Sample whole what an engine lost by its failure; it was restarted, or others do its work."""
        for _ in range(_RESAMPLINGS):
            lost = [trajectory for trajectory in trajectories if trajectory.failed_by == "sampler"]
            if not any(gather(bool(lost))):
                return
            self.weights.update(is_forced=True)
            together(partial(self.collector.resample, lost, collection))


def fill(batch: RolloutBatch, rollouts: Sequence[Rollout]) -> None:
    """Give a batch what rollouts brought: trajectories, statistics of the tools, and the time that it took."""
    batch.trajectories = [trajectory for rollout in rollouts for trajectory in rollout.trajectories]
    for rollout in rollouts:
        for tool, statistics in rollout.tool_statistics.items():
            batch.tool_statistics.setdefault(tool, []).append(statistics)
    batch.timings["sampling"] = sum(rollout.seconds for rollout in rollouts)
