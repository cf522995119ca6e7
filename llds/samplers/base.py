"""The sampler interface: token ids in, token ids and their log-probabilities out.

Every sampler takes requests one at a time from many trajectories at once; it batches them as it sees fit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llds.samplers.busy_time import BusyTime
from llds.samplers.end_of_turn import end_of_turn_ids, saved_settings
from llds.types import Completion, SamplingParams


@dataclass(frozen=True)
class SampleRequest:
    """One action to be sampled.

    Attributes:
        trajectory: Number of the trajectory within the collection; a sampler may keep its cache under it.
        token_ids: The whole context: prompt, actions and observations so far.
        max_tokens: Most tokens of the action.
        stop_strings: Closing tags; the token in which one ends is the last of the action.
        sampling: The sampling law.
        seed: Non-negative numbers that name this action among all others; equal seeds and contexts give equal actions.
        stop_ids: Tokens that end the action, beside those that end a turn anyway.
    """

    trajectory: int
    token_ids: list[int]
    max_tokens: int
    stop_strings: tuple[str, ...]
    sampling: SamplingParams
    seed: tuple[int, ...]
    stop_ids: tuple[int, ...] = ()

    def uniforms(self) -> np.ndarray:
        """One uniform number in [0, 1) for each token of the action, fixed by the seed."""
        return np.random.default_rng(self.seed).random(self.max_tokens)


@dataclass(frozen=True)
class SampledPolicy:
    """What a sampler with an engine of its own must know of the policy, before any weight is loaded.

    Attributes:
        folder: The policy in the format of transformers.
        tokenizer: Its tokenizer.
        dtype: In which the trainer computes.
        max_tokens: Most tokens of a trajectory.
        logs: Folder of the run, for what engines write.
        rank: Number of this process among those that train; 0 sends the weights.
        world_size: Number of processes that train.
        devices: GPUs of this machine that train, by number; empty where none does.
    """

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    dtype: Literal["float32", "bfloat16", "float64"]
    max_tokens: int
    logs: Path
    rank: int = 0
    world_size: int = 1
    devices: tuple[int, ...] = ()

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that end a turn."""
        return end_of_turn_ids(saved_settings(self.folder), self.tokenizer)


class Sampler(ABC):
    """Generates actions.

    Attributes:
        policy_version: Version of the weights in use; stamped on every trajectory.
        engine_dtype: Data type of an engine's own copy of the weights.
        update_deadline_s: Longest time, in seconds, that an update of the weights may take before the process ends.
        can_overlap: Whether it can sample with weights of its own while the policy trains.
        can_resample: Whether trajectories that it lost can be sampled again after `start`.
        takes_saved_layout: Whether it loads weights as the model's files hold them, and not as transformers computes
            with them (fused experts).
    """

    policy_version: int = 0
    engine_dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    update_deadline_s: float = math.inf
    can_overlap: bool = False
    can_resample: bool = False
    takes_saved_layout: bool = False

    @cached_property
    def busy(self) -> BusyTime:
        """Runs while it generates; samplers keep it, and profiles read it."""
        return BusyTime()

    @abstractmethod
    async def sample(self, request: SampleRequest) -> Completion:
        """Sample one action.

        Raises:
            SamplerError: If the engine cannot serve the request; the trajectory is then marked failed.
        """

    @abstractmethod
    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over new weights.

        Args:
            weights: Names and full tensors of the policy, one at a time; must be exhausted on every rank.
            version: Their version.

        Raises:
            WeightUpdateError: If they did not arrive whole.
        """

    def prepare(self, policy: SampledPolicy) -> None:  # noqa: B027 (optional hook)
        """Get to know the policy, and refuse what cannot work; called before any weight is loaded.

        Raises:
            ConfigurationError: Naming the key.
        """

    def make_room(self) -> None:  # noqa: B027 (optional hook)
        """Give memory back that engines need to start or to wake up; before `start`, on every rank."""

    def start(self) -> list[str]:
        """Start or restart engines where that is the sampler's business; before each update, on rank 0 only.

        Returns:
            Where they are, for `join`.

        Raises:
            SamplerError: If there is none.
        """
        return []

    def join(self, engines: list[str]) -> None:  # noqa: B027 (optional hook)
        """Get to know, on every rank, which engines there are."""

    def probe(self, requests: Sequence[SampleRequest]) -> dict[str, list[Completion]]:
        """Sample on each engine, past ends of turns; by its name. Nothing where the weights are the trainer's own.

        Raises:
            SamplerError: If none can.
        """
        return {}

    def rest(self) -> bool:
        """Free what can be freed, because no request comes for a while; every rank must call.

        Returns:
            Whether the engines have given their weights up, and need them again before the next request.
        """
        return False

    def open_trajectory(self, trajectory: int) -> None:  # noqa: B027 (optional hook)
        """Announce a trajectory that will send requests, one at a time."""

    def close_trajectory(self, trajectory: int) -> None:  # noqa: B027 (optional hook)
        """Forget a trajectory: it will send no further request."""

    def close(self) -> None:  # noqa: B027 (optional hook)
        """Free what the sampler holds."""
