"""The overlap of iterations: the next one's rollout goes on while the present one trains.

Its trajectories are sampled by the weights before the present updates: one iteration behind when they are trained on.
A checkpoint waits for them and holds them, so that a run that resumes from it equals one that was never stopped.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from llds.agent_tools import AgentTool
from llds.rollout import Rollout, RolloutUnderWay
from llds.strategies import gather, rank, together, world_size
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn


class NextRollout:
    """This rank's part of the next iteration's rollout: under way, done, or out of a checkpoint.

    Args:
        group_size: Trajectories of a prompt.
    """

    def __init__(self, group_size: int) -> None:
        self._group_size = group_size
        self._iteration = -1
        self._prompts: list[Prompt] = []
        self._under_way: RolloutUnderWay | None = None
        self._saved: dict[str, Any] = {}

    def begun(self, iteration: int, prompts: list[Prompt], under_way: RolloutUnderWay) -> None:
        """Take note of a rollout that has begun.

        Args:
            iteration: Its iteration.
            prompts: Its prompts, of all ranks.
            under_way: This rank's part.
        """
        self._iteration, self._prompts, self._under_way = iteration, prompts, under_way

    def settle(self) -> None:
        """Wait for what is under way; every rank must call."""
        if self._under_way is not None:
            together(self._under_way.future.result)

    def take(self, iteration: int, prompts: list[Prompt], tools: Sequence[AgentTool]) -> RolloutUnderWay | None:
        """Hand out the rollout if it is that of an iteration.

        Args:
            iteration: The iteration.
            prompts: Its prompts, of all ranks.
            tools: All tools of the agent: statistics of a saved rollout are theirs, in this order.
        """
        under_way = self._under_way
        if self._saved.get("iteration") == iteration:
            # The loader vouches for the prompts: it refuses to go on in others.
            self._iteration, self._prompts, under_way = iteration, prompts, self._restored(tools)
        is_wanted = (self._iteration, self._prompts) == (iteration, prompts)
        self.forget()
        return under_way if is_wanted else None

    def forget(self) -> None:
        """Forget what there is; whoever collects must end it."""
        self._iteration, self._prompts, self._under_way, self._saved = -1, [], None, {}

    def state_dict(self) -> dict[str, Any]:
        """The rollout of all ranks, which is waited for; nothing where there is none. Every rank must call."""
        if self._under_way is None:
            return self._saved
        self.settle()
        rollout = self._under_way.rollout
        by_rank = gather((rollout.trajectories, list(rollout.tool_statistics.values())))
        return {
            "iteration": self._iteration,
            "trajectories": [asdict(one) for share, _ in by_rank for one in share],
            "tool_statistics": [statistics for _, statistics in by_rank],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._saved = state

    def _restored(self, tools: Sequence[AgentTool]) -> RolloutUnderWay:
        trajectories = [
            _trajectory(state)
            for state in self._saved["trajectories"]
            if state["index"] // self._group_size % world_size() == rank()
        ]
        statistics = dict(zip(tools, self._saved["tool_statistics"][rank()], strict=True))
        done: Future[None] = Future()
        done.set_result(None)
        return RolloutUnderWay(Rollout(trajectories, statistics), done)


def _trajectory(state: dict[str, Any]) -> Trajectory:
    """What `asdict` made of a trajectory, made a trajectory again."""
    turns = [Turn(**(turn | {"action": Action(**turn["action"])})) for turn in state["turns"]]
    parts = {"prompt": Prompt(**state["prompt"]), "sampling": SamplingParams(**state["sampling"]), "turns": turns}
    return Trajectory(**(state | parts))
