"""Which tokens and trajectories the policy loss learns from: the interface, and how several add up.

A selection that compares trajectories or tokens with each other (a quantile, a share of the largest) is made once per
mini-batch, on whole and uncut tensors that every rank has, from what is known before the update: so it depends on
neither micro-batches nor ranks. Elsewhere such selections are often made per micro-batch of a GPU: another method,
whose result changes with the number of GPUs. One that looks at each trajectory by itself (`is_local`) may be made where
the loss is, and sees the policy of now.

Left out on purpose: KL, LLDS and further terms, which act on all tokens of theirs whatever is selected.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.loss import LossBatch

Known = TypeVar("Known", bound=LossBatch)


@dataclass(frozen=True)
class Selected:
    """What a selection says of tokens; None says nothing.

    Attributes:
        loss_weights: Multiply the policy loss of each token, not negative, ``[B, T]``. 0 takes the token out of the
            sum; it still counts in the number that the loss divides by.
        loss_penalties: Coefficient of ``abs(log_probs - old_log_probs)`` on each token, ``[B, T]``.
        loss_pulls: Coefficient of k3 to `old_proxy` on each token whose log-prob is below, ``[B, T]``.
        excluded: Tokens that are no part of the policy loss, and are not counted, ``[B, T]`` bool.
    """

    loss_weights: Tensor | None = None
    loss_penalties: Tensor | None = None
    loss_pulls: Tensor | None = None
    excluded: Tensor | None = None


class Selection(ABC):
    """Chooses what the policy loss learns from. Subclass it to bring your own, and name it in ``model.selections``.

    Attributes:
        is_local: Whether it looks at each trajectory by itself; it is then asked with the `LossInputs` of each
            micro-batch, else once with the `LossBatch` of the mini-batch.
        reads_old_log_probs: Whether, not local, it needs the old policy's log-probs.
        reads_old_entropy: Whether it needs the old policy's entropy.
        chooses_tokens: Whether it tells tokens of a trajectory apart, which needs a loss with a term for each.
        corrects_sampler: Whether it allows for the gap between sampler and trainer, which nothing else may do then.
        proxy_share: Share of the likeliest token's probability below which tokens are no part of `old_proxy`; None: it
            does not need that.
    """

    is_local: ClassVar[bool] = False
    reads_old_log_probs: ClassVar[bool] = False
    reads_old_entropy: ClassVar[bool] = False
    chooses_tokens: ClassVar[bool] = False
    corrects_sampler: ClassVar[bool] = False
    proxy_share: float | None = None

    @abstractmethod
    def __call__(self, batch: LossBatch) -> Selected:
        """Choose.

        Args:
            batch: The whole mini-batch; for a local one the `LossInputs` of a micro-batch.
        """


def select(batch: Known, selections: Sequence[Selection]) -> Known:
    """The same batch with what selections say of its tokens, on top of what it holds.

    Args:
        batch: Of a mini-batch or a micro-batch.
        selections: Weights multiply, penalties and pulls add up, exclusions join.
    """
    for selection in selections:
        chosen = selection(batch)
        batch = replace(
            batch,
            loss_weights=_joined(batch.loss_weights, chosen.loss_weights, Tensor.mul),
            loss_penalties=_joined(batch.loss_penalties, chosen.loss_penalties, Tensor.add),
            loss_pulls=_joined(batch.loss_pulls, chosen.loss_pulls, Tensor.add),
            excluded=_joined(batch.excluded, chosen.excluded, Tensor.logical_or),
        )
    return batch


def proxy_share(selections: Sequence[Selection]) -> float | None:
    """The share of the proxy that selections read; None where none does.

    Raises:
        ConfigurationError: If two of them read proxies that differ.
    """
    shares = {one.proxy_share for one in selections if one.proxy_share is not None}
    if len(shares) > 1:
        raise ConfigurationError(f"Expected one `proxy_share` in `model.selections`, got {sorted(shares)}.")
    return next(iter(shares), None)


def _joined(first: Tensor | None, second: Tensor | None, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
    """Both, or the one that there is."""
    if first is None or second is None:
        return second if first is None else first
    return join(first, second)
