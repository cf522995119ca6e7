"""Log-probs and entropy of the policy's own tokens, from hidden states, only where they are needed.

Stands between the model's last hidden states and every loss. The head runs on action positions alone: prompts,
observations and padding never meet the vocabulary, and no tensor of all logits exists (see `llds.losses.chunked_head`).

Alignment: entry ``[b, t]`` of every log-prob tensor is about token ``t`` of the sequence, so it comes from the hidden
state at ``t - 1``.

Left out on purpose: running the model, and gathering a head that is sharded over ranks (the caller holds the whole
weight, in forward and backward).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.arithmetic import Arithmetic
from llds.losses.chunked_head import ChunkedHead, Tiling
from llds.losses.masking import action_mask

TOKEN_CHUNK = 1024
"""Tokens of one tile of logits."""

VOCAB_CHUNK = 4096
"""Vocabulary entries of one tile of logits."""


class TokenScores(NamedTuple):
    """Log-prob of each token and entropy of the distribution that it was drawn from.

    Attributes:
        log_probs: In nats, differentiable.
        entropy: In nats, differentiable.
    """

    log_probs: Tensor
    entropy: Tensor


def selected_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    token_chunk: int = TOKEN_CHUNK,
    vocab_chunk: int = VOCAB_CHUNK,
) -> TokenScores:
    r"""Log-probs of chosen tokens under a language-model head, in tiles.

    .. math::
        \log p(y_n) = z_{n, y_n} - \ln \sum_v e^{z_{n, v}}, \qquad
        \mathcal{H}_n = -\sum_v p_{n, v} \ln p_{n, v}, \qquad
        z = (h W^\top + b) / \tau

    Gradients flow to `hidden`, `weight` and `bias` (to those that require one), exact up to the rounding of the dtype;
    from the entropies too, in another pass where a loss reads them. Extra memory: two tiles and a few ``[N, H]``
    tensors, besides the gradients themselves.
    No tokens (``N = 0``) give empty tensors with zero gradients.

    Args:
        hidden: Hidden state before each token, :math:`h`, ``[N, H]``; bf16, fp16, fp32 or fp64.
        weight: The head :math:`W`, ``[V, H]``.
        targets: The chosen tokens :math:`y`, ``[N]`` long.
        bias: The head's bias :math:`b`, ``[V]``.
        temperature: :math:`\tau`, divides the logits; that of the sampling law.
        token_chunk: Tokens of a tile. More is faster on GPUs, and memory grows with it.
        vocab_chunk: Vocabulary entries of a tile.

    Returns:
        Log-probs and entropies, both ``[N]``; fp32, or fp64 for fp64 inputs.

    Raises:
        ConfigurationError: For shapes that do not fit, targets outside the vocabulary, or a temperature or chunk that
            is not positive.
    """
    if not temperature > 0 or token_chunk < 1 or vocab_chunk < 1:
        got = f"{temperature}, {token_chunk} and {vocab_chunk}"
        raise ConfigurationError(f"Expected a positive temperature, token_chunk and vocab_chunk, got {got}.")
    shapes = [list(x.shape) for x in (hidden, weight, targets) + (() if bias is None else (bias,))]
    n_tokens, n_vocab, width = len(targets), *weight.shape
    if shapes != [[n_tokens, width], [n_vocab, width], [n_tokens], [n_vocab]][: len(shapes)]:
        raise ConfigurationError(f"Expected hidden [N, H], weight [V, H], targets [N] and bias [V], got {shapes}.")
    if targets.numel() and (targets.min() < 0 or targets.max() >= weight.shape[0]):
        found = f"{int(targets.min())} to {int(targets.max())}"
        raise ConfigurationError(f"Expected target tokens in [0, {weight.shape[0]}), got {found}.")
    tiling = Tiling(Arithmetic.of(hidden, weight), float(temperature), token_chunk, vocab_chunk)
    log_probs, entropy = ChunkedHead.apply(hidden, weight, bias, targets, tiling)  # type: ignore[no-untyped-call]
    return TokenScores(log_probs, entropy)


def before_actions(values: Tensor, action_index: Tensor) -> Tensor:
    """What stands right before each action token, in row-major order of the tokens: of hidden states, its predictors.

    Args:
        values: One entry per token, ``[B, T, ...]``.
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.

    Returns:
        ``[N, ...]``: entry ``n`` is that at ``t - 1`` of the n-th action token; gradients flow back.

    Raises:
        ConfigurationError: Where the first token of a sequence is an action token: nothing predicts it.
    """
    rows, columns = action_mask(action_index).nonzero(as_tuple=True)
    if bool((columns == 0).any()):
        row = int(rows[columns == 0][0])
        raise ConfigurationError(
            f"Expected a prompt of at least one token before the first action, got an action token at t = 0 of row "
            f"{row}. Start `action_index` with -1."
        )
    return values[rows, columns - 1]


def scatter_to_tokens(values: Tensor, action_index: Tensor) -> Tensor:
    """Put one value per action token back to its place; 0 elsewhere.

    Args:
        values: ``[N]``, in row-major order of the action tokens.
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.

    Returns:
        ``[B, T]``; gradients flow back to `values`.
    """
    empty = torch.zeros(action_index.shape, dtype=values.dtype, device=values.device)
    return empty.masked_scatter(action_mask(action_index), values)


def action_log_probs(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    action_index: Tensor,
    *,
    copy_of: Tensor | None = None,
    bias: Tensor | None = None,
    temperature: float = 1.0,
) -> TokenScores:
    """Log-probs and entropies of all action tokens of a batch.

    Args:
        hidden: Hidden state before each action token, as `before_actions` gives them, ``[N, H]``; or, with `copy_of`,
            one for each distinct prediction, ``[D, H]``.
        weight: The head, ``[V, H]``.
        token_ids: The sequences, ``[B, T]`` long; anything off the actions.
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.
        copy_of: Which of the D predictions each action token is, ``[N]`` long: sequences that begin alike predict the
            same tokens from the same states, and those meet the vocabulary once. None: all differ.
        bias: The head's bias, ``[V]``.
        temperature: Divides the logits; that of the sampling law.

    Returns:
        Log-probs and entropies, both ``[B, T]``, 0 off the actions; entry ``[b, t]`` is about token ``t``.
    """
    targets = token_ids[action_mask(action_index)]
    if copy_of is not None:
        targets = targets.new_empty(len(hidden)).scatter_(0, copy_of, targets)
    scores = selected_log_probs(hidden, weight, targets, bias=bias, temperature=temperature)
    if copy_of is not None:
        scores = TokenScores(*(values[copy_of] for values in scores))
    return TokenScores(*(scatter_to_tokens(values, action_index) for values in scores))


@dataclass(frozen=True)
class HeadTokens:
    """Action tokens as the output head sees them, for what needs more of its distribution. Without gradients.

    Attributes:
        hidden: Last hidden state before each token, :math:`h`, ``[N, H]``.
        targets: The tokens, ``[N]`` long.
        weight: The head, ``[V, H]``.
        bias: The head's bias, ``[V]``; None without one.
        temperature: Divides the logits.
        known: Log-probabilities of the tokens where they are known, ``[N]``; None computes them when they are needed.
    """

    hidden: Tensor
    targets: Tensor
    weight: Tensor
    bias: Tensor | None = None
    temperature: float = 1.0
    known: Tensor | None = None

    @cached_property
    def states(self) -> Tensor:
        """Hidden states in fp32 (fp64 for fp64), ``[N, H]``; with a bias, and a unit that is always 1."""
        hidden = self.hidden.to(torch.float64 if self.hidden.dtype == torch.float64 else torch.float32)
        return hidden if self.bias is None else torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1)

    @cached_property
    def log_probs(self) -> Tensor:
        """Of the tokens themselves, ``[N]``."""
        if self.known is not None:
            return self.known
        return selected_log_probs(
            self.hidden, self.weight, self.targets, bias=self.bias, temperature=self.temperature
        ).log_probs

    @cached_property
    def normalizer(self) -> Tensor:
        """Log-sum-exp of each token's logits, ``[N, 1]``: its own logit minus its log-probability."""
        own = (self.states * self._rows(self.targets)).sum(1)
        return (own / self.temperature - self.log_probs).unsqueeze(1)

    def all_log_probs(self, tokens: slice | Tensor, entries: Tensor) -> Tensor:
        """Log-probabilities of some vocabulary entries at some tokens, ``[tokens, entries]``."""
        logits = self.states[tokens] @ self._rows(entries).t()
        return logits / self.temperature - self.normalizer[tokens]

    @torch.no_grad()
    def mass(self, entries: Tensor) -> Tensor:
        """Summed probability of some vocabulary entries at each token, ``[N]``; no pass over the others."""
        with torch.autocast(self.hidden.device.type, enabled=False):
            return self.all_log_probs(slice(None), entries).exp().sum(1).clamp(max=1)

    def slices(self, vocab_chunk: int) -> list[Tensor]:
        """The vocabulary in parts."""
        ends = [*range(0, self.weight.shape[0], vocab_chunk), self.weight.shape[0]]
        return [torch.arange(start, end, device=self.states.device) for start, end in pairwise(ends)]

    def _rows(self, entries: Tensor) -> Tensor:
        rows = self.weight[entries].to(self.states.dtype)
        return rows if self.bias is None else torch.cat([rows, self.bias[entries, None].to(rows.dtype)], dim=1)


@torch.no_grad()
def proxy_log_probs(tokens: HeadTokens, share: float, *, vocab_chunk: int = VOCAB_CHUNK) -> Tensor:
    r"""Log-probs of tokens under their distributions without what is unlikely there (min-p).

    .. math::
        \tilde\pi(y) = \pi(y) \,/ \sum_{v:\, \pi(v) \ge \kappa \max_u \pi(u)} \pi(v),
        \qquad 0 \text{ where } \pi(y) < \kappa \max_u \pi(u)

    arXiv 2510.03222, the proxy of `LpReg`. Two passes over the vocabulary, in slices.

    Args:
        tokens: Of any trajectories.
        share: :math:`\kappa`, in (0, 1).
        vocab_chunk: Vocabulary entries of a slice.

    Returns:
        ``[N]``, -inf where the token is left out.
    """
    parts = tokens.slices(vocab_chunk)
    peak = torch.stack([tokens.all_log_probs(slice(None), part).amax(1) for part in parts]).amax(0)  # [N]
    least = peak + math.log(share)
    mass = torch.zeros_like(peak)
    for part in parts:
        every = tokens.all_log_probs(slice(None), part)
        mass += torch.where(every >= least.unsqueeze(1), every.exp(), 0).sum(1)
    return torch.where(tokens.log_probs >= least, tokens.log_probs - mass.log(), -torch.inf)
