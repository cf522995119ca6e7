"""The collector: all episodes of an iteration side by side, groups minted as they are sampled.

Trajectories advance independently. One that waits for a tool never holds back another; tools are called concurrently.
"""

import asyncio
import copy
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from llds.agent_tools import AgentTool, EnvironmentFactory
from llds.rollout.episode import Environment, EpisodeLimits, EpisodeWatcher, run_episode
from llds.rollout.observation import ObservationEncoder
from llds.rollout.protocol import Protocol
from llds.rollout.stragglers import Stragglers, abandon_stragglers
from llds.rollout.tool_calls import ToolCallPolicy, blocking_tool, check_deadline
from llds.samplers.base import Sampler
from llds.samplers.event_loop import BackgroundLoop
from llds.types import Prompt, SamplingParams, Trajectory


@dataclass(frozen=True)
class Collection:
    """What distinguishes one collection of rollouts from another.

    Attributes:
        group_size: Trajectories of each prompt.
        sampling: The sampling law.
        limits: Limits of an episode.
        seed: Non-negative numbers: the run's seed, then those that name the collection within the run, such as
            (seed, stage, iteration). Equal ones sample the same. All but the first begin the collection's group ids.
        stragglers: When the last trajectories are abandoned; None waits for all.
        share: (number, shares): with several ranks, each collects every `shares`-th prompt, whole groups of it.
        first_position: Prompts that were collected before with the same seed: the numbers of groups and trajectories
            go on after theirs.
    """

    group_size: int
    sampling: SamplingParams
    limits: EpisodeLimits
    seed: tuple[int, ...]
    share: tuple[int, int] = (0, 1)
    stragglers: Stragglers | None = None
    first_position: int = 0


@dataclass
class Rollout:
    """What a collection leaves, once `RolloutCollector.wait` has returned it.

    Attributes:
        trajectories: Those of a prompt are neighbours; failed ones are among them, with status ``failed``.
        tool_statistics: What each agent tool counted.
        seconds: Wall time of the collection.
    """

    trajectories: list[Trajectory]
    tool_statistics: dict[AgentTool, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class RolloutUnderWay:
    """A collection that has begun.

    Attributes:
        rollout: What it fills.
        future: Its end.
    """

    rollout: Rollout
    future: "Future[None]"


class RolloutCollector:
    """Collects trajectories.

    Args:
        sampler: Generates actions.
        tokenizer: The policy's tokenizer.
        protocol: Reads actions and renders observations.
        agent_tools: The agent's tools.
        tool_calls: Deadline and retries of a tool call.
        opening_tool: Asked about each question before the first action; its result becomes part of the prompt.
        watcher: Sees the turns of all episodes as they come.
        stateful: Makes an environment for each trajectory.

    Raises:
        ConfigurationError: If the protocol cannot work with a tool or with the tokenizer, or a tool may take longer
            than the deadline by its own limit.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: PreTrainedTokenizerBase,
        protocol: Protocol,
        agent_tools: Sequence[AgentTool],
        tool_calls: ToolCallPolicy,
        opening_tool: AgentTool | None = None,
        watcher: EpisodeWatcher | None = None,
        stateful: EnvironmentFactory | None = None,
    ) -> None:
        self.sampler = sampler
        # Of its own: transformers sets what is split on the tokenizer, and others use theirs while the loop runs.
        self.tokenizer = copy.deepcopy(tokenizer)
        self.protocol = protocol
        protocol.attach(self.tokenizer, agent_tools)
        check_deadline([*agent_tools, *([opening_tool] if opening_tool else [])], tool_calls)
        self.tools = {tool.name: tool for tool in agent_tools}
        self.tool_calls = tool_calls
        self.opening_tool = opening_tool
        self.watcher = watcher
        self.stateful = stateful
        self.encoder = ObservationEncoder(self.tokenizer, protocol, list(self.tools))
        self._loop = BackgroundLoop(tool_calls.blocked_s, blocking_tool)

    def collect(self, prompts: Sequence[Prompt], collection: Collection) -> list[Trajectory]:
        """Run `group_size` episodes of each prompt of the collection's share, to their end; see `begin`, `wait`."""
        return self.wait(self.begin(prompts, collection)).trajectories

    def begin(self, prompts: Sequence[Prompt], collection: Collection) -> RolloutUnderWay:
        """Begin to run `group_size` episodes of each prompt of the collection's share, beside whatever the caller does.

        One collection at a time: the last one must have been waited for.
        """
        number, shares = collection.share
        trajectories = [
            Trajectory(
                prompt=prompt,
                group_id="-".join(str(part) for part in (*collection.seed[1:], position)),
                index=position * collection.group_size + member,
                sampling=collection.sampling,
                policy_version=self.sampler.policy_version,
            )
            for position, prompt in enumerate(prompts, start=collection.first_position)
            if position % shares == number
            for member in range(collection.group_size)
        ]
        for tool in self._all_tools:
            tool.begin_iteration()
        rollout = Rollout(trajectories)
        return RolloutUnderWay(rollout, self._loop.submit(self._fill(rollout, collection)))

    def wait(self, under_way: RolloutUnderWay) -> Rollout:
        """Wait for the end of a collection.

        Failed trajectories are among the others, with status ``failed``: what becomes of their group is the caller's
        policy.

        Raises:
            ConfigurationError: If a setting proved wrong on the way, such as a limit that no observation fits into.
        """
        self._loop.wait(under_way.future)
        return under_way.rollout

    def cancel(self) -> None:
        """Give up what is under way; returns once it has ended."""
        self._loop.cancel_all()

    def resample(self, trajectories: Sequence[Trajectory], collection: Collection) -> None:
        """Sample trajectories of a collection anew, from their first action on, by the sampler's present weights.

        Args:
            trajectories: Some that failed; they are emptied and filled again.
            collection: The collection that they belong to.
        """
        for trajectory in trajectories:
            trajectory.turns, trajectory.status = [], "out_of_turns"
            trajectory.failure, trajectory.failed_by, trajectory.environment_reward = "", "", None
            trajectory.policy_version = self.sampler.policy_version
        self._loop.run(self._run_all(trajectories, collection))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run something else on the event loop, to its end."""
        return self._loop.run(coroutine)

    def close(self) -> None:
        """Stop the event loop; nothing can be collected afterwards."""
        self._loop.close()

    @property
    def _all_tools(self) -> list[AgentTool]:
        return [*self.tools.values(), *([self.opening_tool] if self.opening_tool else [])]

    async def _fill(self, rollout: Rollout, collection: Collection) -> None:
        started = time.perf_counter()
        await self._run_all(rollout.trajectories, collection)
        rollout.seconds = time.perf_counter() - started
        rollout.tool_statistics = {tool: tool.statistics for tool in self._all_tools}

    async def _run_all(self, trajectories: Sequence[Trajectory], collection: Collection) -> None:
        environment = Environment(
            sampler=self.sampler,
            tokenizer=self.tokenizer,
            protocol=self.protocol,
            tools=self.tools,
            opening_tool=self.opening_tool,
            encoder=self.encoder,
            limits=collection.limits,
            tool_calls=self.tool_calls,
            watcher=self.watcher,
            stateful=self.stateful,
        )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(run_episode(environment, trajectory, (*collection.seed, trajectory.index)))
                    for trajectory in trajectories
                ]
                if collection.stragglers is not None and tasks:
                    await abandon_stragglers(tasks, trajectories, collection.stragglers)
        except BaseExceptionGroup as errors:  # the first is the cause: it cancelled the others
            raise errors.exceptions[0] from None
