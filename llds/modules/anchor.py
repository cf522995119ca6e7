"""The lagged anchor: log-probabilities under the policy of a few iterations ago, for the LLDS penalty.

With one optimizer step per iteration the current policy *is* the old one, and LLDS against it can never act. The
authors' README suggests a snapshot from a few iterations ago.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llds.errors import ConfigurationError
from llds.losses import LLDSPenalty
from llds.strategies import assign_parts, local_part

_NEVER = 2**62
"""Lag of a frozen anchor: the first snapshot stays."""


class LaggedAnchor:
    """Two snapshots of the trainable parameters, in main memory: the anchor, and the next one.

    Where parameters are partitioned over the ranks, each rank keeps those of its part.

    Every `lag` iterations the next snapshot becomes the anchor and a new one is taken, so the anchor is between `lag`
    and ``2 * lag - 1`` iterations old (the initial policy before that), at the cost of two copies whatever the lag.

    Args:
        lag: Iterations between two snapshots.

    Attributes:
        anchor: The anchor's parameters by name; empty before the first `advance`.
        next: The snapshot that becomes the anchor next.
        taken_at: The iteration that began with the policy of `next`.

    Raises:
        ConfigurationError: If the lag is below 1.
    """

    def __init__(self, lag: int) -> None:
        if lag < 1:
            raise ConfigurationError(f"Expected `llds_penalty.anchor_lag` >= 1 iteration, got {lag}.")
        self.lag = lag
        self.anchor: dict[str, Tensor] = {}
        self.next: dict[str, Tensor] = {}
        self.taken_at = 0

    @classmethod
    def of(cls, penalty: LLDSPenalty | None) -> "LaggedAnchor | None":
        """The anchor that a penalty asks for; None where it is the old policy, or there is no penalty."""
        if penalty is None or penalty.anchor == "old":
            return None
        return cls(penalty.anchor_lag if penalty.anchor == "lagged" else _NEVER)

    def advance(self, iteration: int, policy: nn.Module) -> None:
        """Take a snapshot if one is due at the start of this iteration; a second call in an iteration does nothing.

        Args:
            iteration: Iterations done.
            policy: At the start of the iteration.
        """
        if self.next and iteration - self.taken_at < self.lag:
            return
        snapshot = {name: local_part(value).cpu().clone() for name, value in _trainable(policy)}
        self.anchor = self.next or snapshot
        self.next = snapshot
        self.taken_at = iteration

    @contextmanager
    def applied(self, policy: nn.Module) -> Iterator[None]:
        """The policy with the anchor's weights, for scoring; its own come back bit by bit."""
        current = {name: local_part(value).clone() for name, value in _trainable(policy)}
        try:
            _assign(policy, self.anchor)
            yield
        finally:
            _assign(policy, current)

    def state_dict(self) -> dict[str, Any]:
        """Both snapshots and the iteration of the newer."""
        return {"anchor": self.anchor, "next": self.next, "taken_at": self.taken_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.anchor, self.next, self.taken_at = state["anchor"], state["next"], state["taken_at"]

    def go_back(self, state: Mapping[str, Any] | None, iterations: int) -> None:
        """Take the snapshots of a checkpoint of this run in mid-run; they are as old as they were.

        Args:
            state: What `state_dict` returned then; None where the run had no anchor yet.
            iterations: Iterations since.
        """
        self.load_state_dict(state or {"anchor": {}, "next": {}, "taken_at": -iterations})
        self.taken_at += iterations


def _trainable(policy: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, value) for name, value in policy.named_parameters() if value.requires_grad]


@torch.no_grad()
def _assign(policy: nn.Module, values: Mapping[str, Tensor]) -> None:
    assign_parts((parameter, values[name]) for name, parameter in _trainable(policy))
