"""The overlap of iterations: the next one's rollout goes on while the present one trains.

Its trajectories are sampled by the weights before the present updates: one iteration behind when they are trained on.
A checkpoint waits for them and holds them, so that a run that resumes from it equals one that was never stopped; and a
rollout is kept until its own iteration is trained, for a run that is stopped in between.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from copy import copy
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from llds.agent_tools import AgentTool
from llds.callbacks.rollout.packing import (
    packed_statistics,
    packed_trajectories,
    unpacked_statistics,
    unpacked_trajectories,
)
from llds.rollout import Rollout, RolloutUnderWay
from llds.strategies import gather, rank, together, world_size
from llds.types import Prompt, Trajectory


@dataclass
class _Ahead:
    """A rollout that was begun ahead.

    Attributes:
        prompts: Of all ranks.
        under_way: This rank's part.
        as_sampled: Its trajectories and what each tool counted, once it has ended, before the iteration changes them
            (by sampling anew what engines lost).
    """

    prompts: list[Prompt]
    under_way: RolloutUnderWay
    as_sampled: tuple[list[Trajectory], list[Any]] | None = None


class NextRollout:
    """This rank's part of rollouts that were begun ahead of their iteration: under way, done, or out of a checkpoint.

    Args:
        group_size: Trajectories of a prompt.
    """

    def __init__(self, group_size: int) -> None:
        self._group_size = group_size
        self._iteration = -1
        self._ahead: dict[int, _Ahead] = {}
        self._saved: Mapping[str, Any] = {}

    def begun(self, iteration: int, prompts: list[Prompt], under_way: RolloutUnderWay) -> None:
        """Take note of a rollout that has begun.

        Args:
            iteration: Its iteration.
            prompts: Its prompts, of all ranks.
            under_way: This rank's part.
        """
        self._ahead[iteration] = _Ahead(prompts, under_way)

    def reach(self, iteration: int) -> None:
        """Take note that all iterations before this one are trained: their rollouts go."""
        self._iteration = iteration
        self._ahead = {number: one for number, one in self._ahead.items() if number >= iteration}
        if self._saved.get("iteration", iteration) < iteration:
            self._saved = {}

    def settle(self) -> None:
        """Wait for what is under way; every rank must call."""
        for one in self._ahead.values():
            together(one.under_way.future.result)

    def settle_before_stopping(self) -> None:
        """Wait for the rollout that a checkpoint of this moment holds, and forget the others, and one that failed."""
        ahead = self._ahead.get(self._iteration)
        self._ahead = {}
        if ahead is not None:
            if not ahead.under_way.future.done():
                rank_zero_info("Waiting for the rollout that was begun ahead: it belongs to the checkpoint.")
            wait([ahead.under_way.future])
            if ahead.under_way.future.exception() is None:
                self._ahead = {self._iteration: ahead}

    def take(self, iteration: int, prompts: list[Prompt], tools: Sequence[AgentTool]) -> RolloutUnderWay | None:
        """Wait for the rollout of an iteration, where there is one, and hand it out; an interrupt leaves it going.

        Args:
            iteration: The iteration.
            prompts: Its prompts, of all ranks.
            tools: All tools of the agent: statistics of a saved rollout are theirs, in this order.
        """
        if self._saved.get("iteration") == iteration:
            # The loader vouches for the prompts: it refuses to go on in others.
            self._ahead[iteration] = _Ahead(prompts, self._restored(tools))
        ahead = self._ahead.get(iteration)
        if ahead is None or ahead.prompts != prompts:
            self.forget()
            return None
        wait([ahead.under_way.future])
        _keep_as_sampled(ahead)
        return ahead.under_way

    def forget(self) -> None:
        """Forget what there is; whoever collects must end it."""
        self._ahead, self._saved = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """The present iteration's rollout of all ranks, which is waited for; nothing where there is none.

        Every rank must call.
        """
        ahead = self._ahead.get(self._iteration)
        if ahead is None:
            return dict(self._saved)
        together(ahead.under_way.future.result)
        _keep_as_sampled(ahead)
        by_rank = gather(ahead.as_sampled or ([], []))
        packed = packed_trajectories([one for trajectories, _ in by_rank for one in trajectories])
        counted = [one for _, one in by_rank]
        return {"iteration": self._iteration, "group_size": self._group_size, "tool_statistics": counted} | packed

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if state and "tokens" not in state:
            rank_zero_warn(
                "Expected a checkpoint whose rollout is in tensors, got one of an earlier version of llds: its next "
                "iteration is sampled anew by the present weights."
            )
            state = {}
        saved = state.get("group_size", self._group_size)  # earlier versions do not say
        if saved != self._group_size:
            rank_zero_warn(
                f"The checkpoint's rollout has {saved} trajectories of each prompt, and `rollout.group_size` is "
                f"{self._group_size} now: its next iteration is sampled anew by the present weights."
            )
            state = {}
        self._saved = state

    def _restored(self, tools: Sequence[AgentTool]) -> RolloutUnderWay:
        trajectories = unpacked_trajectories(self._saved)
        own = [one for one in trajectories if one.index // self._group_size % world_size() == rank()]
        counted = zip(tools, self._saved["tool_statistics"][rank()], strict=True)
        statistics = {tool: unpacked_statistics(state, tool.statistics) for tool, state in counted}
        done: Future[None] = Future()
        done.set_result(None)
        return RolloutUnderWay(Rollout(own, statistics), done)


def _keep_as_sampled(ahead: _Ahead) -> None:
    """Copy the trajectories, but not their turns, which nobody changes: sampling anew replaces them."""
    if ahead.as_sampled is None and ahead.under_way.future.exception() is None:
        rollout = ahead.under_way.rollout
        counted = [packed_statistics(one, tool.name) for tool, one in rollout.tool_statistics.items()]
        ahead.as_sampled = [copy(one) for one in rollout.trajectories], counted
