"""Rollouts as plain values and tensors, for checkpoints: nothing in them could run code when it is loaded.

Tokens and log-probabilities of all trajectories are one tensor each; as lists of numbers they would take a minute to
load as plain values. In their place stand their lengths, and they are read in the order in which they were put.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.types import Action, Prompt, SamplingParams, ToolCall, Trajectory, Turn

_PLAIN = (str, int, float, bool, type(None))


class _Reader:
    """Reads values of a tensor from its start on."""

    def __init__(self, values: Tensor) -> None:
        self._values: list[Any] = values.tolist()
        self._at = 0

    def read(self, count: int) -> list[Any]:
        """The next values, so many."""
        self._at += count
        return self._values[self._at - count : self._at]


def packed_trajectories(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Trajectories as plain values and two tensors."""
    tokens: list[int] = []
    log_probs: list[float] = []

    def put(values: Sequence[Any], into: list[Any]) -> int:
        into += values
        return len(values)

    def turn(one: Turn) -> dict[str, Any]:
        return vars(one) | {
            "action": vars(one.action) | {"calls": [vars(call) for call in one.action.calls]},
            "action_ids": put(one.action_ids, tokens),
            "observation_ids": put(one.observation_ids, tokens),
            "behavior_log_probs": put(one.behavior_log_probs, log_probs),
        }

    def trajectory(one: Trajectory) -> dict[str, Any]:
        opening, messages = one.prompt.opening, one.prompt.messages
        prompt = vars(one.prompt) | {
            "prompt_ids": put(one.prompt.prompt_ids, tokens),
            "opening": None if opening is None else (opening.start, opening.stop),
            "messages": None if messages is None else tuple(dict(message) for message in messages),
        }
        return vars(one) | {
            "prompt": prompt,
            "sampling": vars(one.sampling),
            "turns": [turn(each) for each in one.turns],
        }

    plain = [trajectory(one) for one in trajectories]
    return {
        "trajectories": plain,
        "tokens": torch.tensor(tokens, dtype=torch.long),
        "log_probs": torch.tensor(log_probs, dtype=torch.float64),
    }


def unpacked_trajectories(state: Mapping[str, Any]) -> list[Trajectory]:
    """What `packed_trajectories` was given."""
    tokens, log_probs = _Reader(state["tokens"]), _Reader(state["log_probs"])

    def turn(one: Mapping[str, Any]) -> Turn:
        read = {"action_ids": tokens.read(one["action_ids"]), "observation_ids": tokens.read(one["observation_ids"])}
        read["behavior_log_probs"] = log_probs.read(one["behavior_log_probs"])
        calls = tuple(ToolCall(**call) for call in one["action"].get("calls", ()))  # old checkpoints have none
        return Turn(**{**one, **read, "action": Action(**(one["action"] | {"calls": calls}))})

    def trajectory(one: Mapping[str, Any]) -> Trajectory:
        opening = one["prompt"]["opening"]
        read = {"prompt_ids": tuple(tokens.read(one["prompt"]["prompt_ids"]))}
        prompt = Prompt(**(one["prompt"] | read | {"opening": None if opening is None else range(*opening)}))
        parts = {"prompt": prompt, "sampling": SamplingParams(**one["sampling"])}
        return Trajectory(**{**one, **parts, "turns": [turn(each) for each in one["turns"]]})

    return [trajectory(one) for one in state["trajectories"]]


def packed_statistics(statistics: Any, tool: str) -> Any:
    """What a tool has counted, as plain values.

    Args:
        statistics: A plain value, or a dataclass of such ones.
        tool: The tool's name, for the message.

    Raises:
        ConfigurationError: If they are something else.
    """
    plain = asdict(statistics) if is_dataclass(statistics) and not isinstance(statistics, type) else statistics
    if not _is_plain(plain):
        raise ConfigurationError(
            f"Expected `statistics` of the tool `{tool}` to be plain values or a dataclass of them, because a "
            f"checkpoint holds them where `rollout.overlap` is true, got a {type(statistics).__name__}. Make it one."
        )
    return plain


def unpacked_statistics(state: Any, like: Any) -> Any:
    """What `packed_statistics` was given.

    Args:
        state: What it returned.
        like: Statistics of the same tool; counts that they do not have were of another version, and are left out.
    """
    if not is_dataclass(like) or isinstance(like, type) or not isinstance(state, Mapping):
        return state
    known = {one.name for one in fields(like)}
    return type(like)(**{name: value for name, value in state.items() if name in known})


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(one) for pair in value.items() for one in pair)
    if isinstance(value, (list, tuple)):
        return all(_is_plain(one) for one in value)
    return type(value) in _PLAIN or isinstance(value, Tensor)
