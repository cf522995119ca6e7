"""The `Sampler`: token ids in, token ids with their log-probabilities out.

The one interface between episodes and whatever generates: the trainer's own model (`TransformersSampler`) or an
inference engine. Requests of different trajectories are independent of each other; a sampler may batch them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

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
    """

    trajectory: int
    token_ids: list[int]
    max_tokens: int
    stop_strings: tuple[str, ...]
    sampling: SamplingParams
    seed: tuple[int, ...]

    def uniforms(self) -> np.ndarray:
        """One uniform number in [0, 1) for each token of the action, fixed by the seed."""
        return np.random.default_rng(self.seed).random(self.max_tokens)


class Sampler(ABC):
    """Generates actions.

    Attributes:
        policy_version: Version of the weights in use; stamped on every trajectory.
    """

    policy_version: int = 0

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
        """

    def open_trajectory(self, trajectory: int) -> None:  # noqa: B027 (optional hook)
        """Announce a trajectory that will send requests, one at a time."""

    def close_trajectory(self, trajectory: int) -> None:  # noqa: B027 (optional hook)
        """Forget a trajectory: it will send no further request."""

    def close(self) -> None:  # noqa: B027 (optional hook)
        """Free what the sampler holds."""
