"""One episode: the policy acts, the environment observes, until an answer or a limit.

Every trajectory is a coroutine that advances at its own pace; nothing here knows of the others.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from llds.agent_tools import AgentTool, EnvironmentFactory, ToolContext
from llds.errors import ConfigurationError, SamplerError, ToolFailure, ToolInputError
from llds.rollout.observation import ObservationEncoder
from llds.rollout.protocol import ObservationText
from llds.rollout.protocol import Protocol as ActionProtocol
from llds.rollout.tool_calls import ToolCallPolicy, call_tool, run_calls
from llds.samplers.base import Sampler, SampleRequest
from llds.types import Prompt, ToolResult, Trajectory, Turn


@dataclass(frozen=True)
class EpisodeLimits:
    """Limits of an episode, in tokens and turns (defaults: Search-R1 in training)."""

    action_tokens: int = 500
    """Most tokens of one action."""
    observation_tokens: int = 500
    """Most tokens of one observation, its tags included."""
    total_tokens: int = 4096
    """Most tokens of a trajectory, prompt included."""
    turns: int = 3
    """Most actions that get an observation; one last action without a tool call may follow."""

    def __post_init__(self) -> None:
        if min(self.action_tokens, self.observation_tokens, self.total_tokens) < 1 or self.turns < 0:
            raise ConfigurationError(
                f"Expected `limits` to be at least 1 token each and `turns` at least 0, got {self}."
            )


class EpisodeWatcher(Protocol):
    """Sees an episode while it goes on, from the event loop's thread; must return at once."""

    def opened(self, prompt: Prompt) -> None:
        """An opening tool has spoken; the prompt holds what it said."""

    def acted(self, turn: Turn) -> None:
        """The policy has acted."""

    def observed(self, turn: Turn) -> None:
        """The environment has answered; the turn holds the observation."""


@dataclass(frozen=True)
class Environment:
    """What all episodes of a collection share."""

    sampler: Sampler
    tokenizer: PreTrainedTokenizerBase
    protocol: ActionProtocol
    tools: dict[str, AgentTool]
    opening_tool: AgentTool | None
    encoder: ObservationEncoder
    limits: EpisodeLimits
    tool_calls: ToolCallPolicy
    watcher: EpisodeWatcher | None = None
    stateful: EnvironmentFactory | None = None


async def run_episode(environment: Environment, trajectory: Trajectory, seed: tuple[int, ...]) -> None:
    """Fill a trajectory with turns; an infrastructure failure is recorded on it, not raised.

    Args:
        environment: What the episodes share.
        trajectory: A fresh trajectory; it is filled in place.
        seed: Numbers that name this trajectory among all that the run samples.
    """
    stateful = environment.stateful
    try:
        async with stateful.opened(trajectory) if stateful else nullcontext() as said:
            environment.sampler.open_trajectory(trajectory.index)
            await _open(environment, trajectory, said)
            for turn in range(environment.limits.turns + 1):
                is_last = turn == environment.limits.turns
                if not await _take_turn(environment, trajectory, (*seed, turn), is_last=is_last):
                    break
    except (ToolFailure, SamplerError) as error:
        trajectory.status, trajectory.failure = "failed", str(error)
        trajectory.failed_by = "sampler" if isinstance(error, SamplerError) else "tool"
    finally:
        environment.sampler.close_trajectory(trajectory.index)


async def _open(environment: Environment, trajectory: Trajectory, said: str | None) -> None:
    """Put what opening tool or environment says into the prompt, as an observation: off the mask, defused."""
    tool, prompt = environment.opening_tool, trajectory.prompt
    if said is not None and prompt.opening is None:
        raise ConfigurationError(
            "Expected {observation} in `data.template.text`, for what `reset` of the environment says, got no such "
            "place. Add it, or let `reset` return None."
        )
    if (tool is None and said is None) or prompt.opening is None or prompt.opening:  # full: it is sampled anew
        return
    try:
        result = (
            ToolResult(said or "") if tool is None else await call_tool(tool, prompt.question, environment.tool_calls)
        )
    except ToolInputError as error:  # not the model's mistake: it has not acted yet
        raise ToolFailure(f"the opening tool refused the question {prompt.prompt_id!r}: {error}") from error
    body = environment.protocol.neutralize(result.text, list(environment.tools))
    observation = environment.encoder.encode(ObservationText("", body, ""), environment.limits.observation_tokens)
    trajectory.prompt = prompt.opened_with(observation.token_ids, result.document_ids)
    if environment.watcher is not None:
        environment.watcher.opened(trajectory.prompt)


async def _take_turn(environment: Environment, trajectory: Trajectory, seed: tuple[int, ...], *, is_last: bool) -> bool:
    """Take one turn; returns whether the episode goes on."""
    room = environment.limits.total_tokens - trajectory.length
    if room < 1:
        trajectory.status = "out_of_room"
        return False
    turn, said = await _act(environment, trajectory, min(room, environment.limits.action_tokens), seed)
    if environment.watcher is not None:
        environment.watcher.acted(turn)
    if turn.action.kind == "answer":
        trajectory.status = "answered"
        return False
    if is_last:
        trajectory.status = "out_of_turns"
        return False
    room -= len(turn.action_ids)
    if room > 0:
        await _observe(environment, trajectory, turn, said, seed)
        if environment.watcher is not None:
            environment.watcher.observed(turn)
    if len(turn.observation_ids) >= room:  # an observation without room for an action after it is of no use
        turn.observation_ids, turn.observation_is_cut, turn.document_ids = [], False, ()
        trajectory.status = "out_of_room"
        return False
    return True


async def _act(
    environment: Environment, trajectory: Trajectory, max_tokens: int, seed: tuple[int, ...]
) -> tuple[Turn, str]:
    names = list(environment.tools)
    completion = await environment.sampler.sample(
        SampleRequest(
            trajectory=trajectory.index,
            token_ids=trajectory.token_ids,
            max_tokens=max_tokens,
            stop_strings=tuple(environment.protocol.stop_strings(names)),
            stop_ids=environment.protocol.stop_ids(),
            sampling=trajectory.sampling,
            seed=seed,
        )
    )
    ids = completion.token_ids
    said = str(environment.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    turn = Turn(ids, completion.log_probs, completion.stop_reason, environment.protocol.parse(said, names))
    trajectory.turns.append(turn)
    return turn, said


async def _observe(
    environment: Environment, trajectory: Trajectory, turn: Turn, said: str, seed: tuple[int, ...]
) -> None:
    started, action, names = time.perf_counter(), turn.action, list(environment.tools)
    if action.kind == "invalid":
        text = environment.protocol.correct(said, names, action.reason)
    else:
        context = ToolContext(trajectory.prompt.row, trajectory.index, len(trajectory.turns) - 1, seed)
        outcomes = await run_calls(environment.tools, action.tool_calls, environment.tool_calls, context)
        turn.tool_errors = sum(one.is_error for one in outcomes)
        turn.document_ids = tuple(document for one in outcomes for document in one.document_ids)
        text = environment.protocol.observe_all(action, said, [one.text for one in outcomes], names)
    turn.tool_s = time.perf_counter() - started
    observation = environment.encoder.encode(text, environment.limits.observation_tokens)
    turn.observation_ids, turn.observation_is_cut = observation.token_ids, observation.is_cut
