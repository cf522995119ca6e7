r"""Log-probabilities of chosen tokens under a language-model head, without ever holding all the logits.

The arithmetic under `llds.losses.log_probs`. With ``N`` action tokens, ``H`` hidden units and ``V`` vocabulary entries
the logits are ``[N, V]``: 600 MB for 1,024 tokens of a Qwen2.5 in fp32, several times over in a naive backward pass.
Here one tile of ``token_chunk x vocab_chunk`` logits exists at a time:

* forward: an online log-sum-exp over vocabulary slices gives the normalizer, the chosen logit and the entropy in one
  pass; only ``[N]`` vectors are kept. Where the head is frozen (LoRA), the expected head row goes along, and the
  backward pass needs no product at all, unless a loss reads the entropy;
* backward: each tile is computed again, and each vocabulary slice of the head's gradient is written once into the one
  tensor that is returned. Tokens whose incoming gradient is zero are left out.

Left out on purpose: the choice of positions (`llds.losses.log_probs`), the precision of
products (`llds.losses.arithmetic`), infinite logits, and fused device kernels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llds.losses.arithmetic import Arithmetic


@dataclass(frozen=True)
class Tiling:
    """The head, cut into tiles: what forward and backward share.

    Attributes:
        arithmetic: How products are taken.
        temperature: Divides the logits.
        token_chunk: Rows of a tile.
        vocab_chunk: Columns of a tile.
    """

    arithmetic: Arithmetic
    temperature: float
    token_chunk: int
    vocab_chunk: int

    def token_slices(self, n_tokens: int) -> list[slice]:
        """Cut the tokens."""
        return [slice(i, min(i + self.token_chunk, n_tokens)) for i in range(0, n_tokens, self.token_chunk)]

    def vocab_slices(self, n_vocab: int) -> list[slice]:
        """Cut the vocabulary."""
        return [slice(i, min(i + self.vocab_chunk, n_vocab)) for i in range(0, n_vocab, self.vocab_chunk)]

    def buffer(self, hidden: Tensor, n_vocab: int) -> Tensor:
        """Room for one tile of logits, as a vector."""
        size = min(self.token_chunk, hidden.shape[0]) * min(self.vocab_chunk, n_vocab)
        return torch.empty(size, dtype=self.arithmetic.accumulator, device=hidden.device)

    def logits(self, buffer: Tensor, hidden: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
        """Write ``(hidden @ head.T + bias) / temperature`` of one tile into the buffer."""
        out = buffer[: hidden.shape[0] * head.shape[0]].view(hidden.shape[0], head.shape[0])
        self.arithmetic.product(out, hidden, head.t())
        if bias is not None:
            out += bias
        if self.temperature != 1.0:
            out /= self.temperature
        return out


@dataclass(frozen=True)
class Scan:
    """What one pass over the vocabulary finds.

    Attributes:
        log_probs: Log-probability of each target, in nats, ``[N]``.
        entropy: Entropy of each distribution, in nats, ``[N]``.
        normalizer: Log-sum-exp of each row of logits, ``[N]``.
        expected_head: Head row expected under each distribution, ``[N, H]``; None unless asked for.
    """

    log_probs: Tensor
    entropy: Tensor
    normalizer: Tensor
    expected_head: Tensor | None


def _columns(targets: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Column of each target inside a vocabulary slice (clamped into it), and whether it lies there: both [n, 1]."""
    is_inside = (targets >= part.start) & (targets < part.stop)
    return (targets - part.start).clamp(0, part.stop - part.start - 1).unsqueeze(1), is_inside.unsqueeze(1)


def scan_vocabulary(
    tiling: Tiling, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, *, expect_head: bool
) -> Scan:
    """Read the vocabulary once, slice by slice, with an online log-sum-exp.

    Args:
        tiling: The tiles.
        hidden: Hidden states, ``[N, H]``.
        weight: The head, ``[V, H]``.
        targets: Chosen token ids, ``[N]``.
        bias: The head's bias, ``[V]``, or None.
        expect_head: Whether to take along the expected head row.
    """
    arithmetic = tiling.arithmetic
    peak = hidden.new_full((hidden.shape[0], 1), -torch.inf, dtype=arithmetic.accumulator)  # largest logit so far
    mass = torch.zeros_like(peak)  # sum of exp(z - peak)
    moment = torch.zeros_like(peak)  # sum of exp(z - peak) * (z - peak)
    chosen = torch.zeros_like(peak)  # the target's logit
    expected = torch.zeros_like(hidden, dtype=arithmetic.accumulator) if expect_head else None
    z_buffer, e_buffer = tiling.buffer(hidden, weight.shape[0]), tiling.buffer(hidden, weight.shape[0])
    operand = arithmetic.prepare(hidden)
    for part in tiling.vocab_slices(weight.shape[0]):
        head = arithmetic.prepare(weight[part])
        for rows in tiling.token_slices(hidden.shape[0]):
            z = tiling.logits(z_buffer, operand[rows], head, None if bias is None else bias[part])
            column, is_inside = _columns(targets[rows], part)
            chosen[rows] += torch.where(is_inside, z.gather(1, column), 0)
            new_peak = torch.maximum(peak[rows], z.amax(1, keepdim=True))
            z -= new_peak
            e = torch.exp(z, out=e_buffer[: z.numel()].view_as(z))
            drop = torch.where(mass[rows] > 0, peak[rows] - new_peak, 0)
            shrink = drop.exp()
            if expected is not None:
                expected[rows] *= shrink
                arithmetic.product(expected[rows], e, head, accumulate=True)
            moment[rows] = shrink * (moment[rows] + drop * mass[rows]) + z.mul_(e).sum(1, keepdim=True)
            mass[rows] = shrink * mass[rows] + e.sum(1, keepdim=True)
            peak[rows] = new_peak
    normalizer = peak + mass.log()
    entropy = (mass.log() - moment / mass).squeeze(1)
    expected = None if expected is None else expected.div_(mass)
    return Scan((chosen - normalizer).squeeze(1), entropy, normalizer.squeeze(1), expected)


@dataclass(frozen=True)
class Gradients:
    """Gradients of the incoming gradient's product with the log-probs; None where not asked for."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def head_gradients(
    tiling: Tiling,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor | None],
    normalizer: Tensor,
    grad: Tensor,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    r"""Compute each tile again and turn it into gradients: :math:`\partial \log p_y / \partial z = 1_y - p`.

    Args:
        tiling: The tiles.
        inputs: Hidden states ``[N, H]``, head ``[V, H]``, targets ``[N]``, bias ``[V]`` or None.
        normalizer: Log-sum-exp of each row of logits, ``[N]``.
        grad: Gradient of the loss by each log-prob, ``[N]``.
        needs: Which of hidden states, head and bias take a gradient.
    """
    hidden, weight, targets, bias = inputs
    arithmetic = tiling.arithmetic
    minus_grad = (grad / -tiling.temperature).to(arithmetic.accumulator).unsqueeze(1)
    operand = arithmetic.prepare(hidden)
    scaled = arithmetic.prepare(operand * minus_grad)
    grad_hidden = torch.zeros_like(hidden, dtype=arithmetic.accumulator) if needs[0] else None
    grad_weight = torch.empty_like(weight) if needs[1] else None
    grad_bias = torch.zeros_like(weight[:, 0], dtype=arithmetic.accumulator) if needs[2] else None
    buffer = tiling.buffer(hidden, weight.shape[0])
    for part in tiling.vocab_slices(weight.shape[0]):
        head = arithmetic.prepare(weight[part])
        total = None if grad_weight is None else grad_weight[part].to(arithmetic.accumulator).zero_()
        for rows in tiling.token_slices(hidden.shape[0]):
            z = tiling.logits(buffer, operand[rows], head, None if bias is None else bias[part])
            column, is_inside = _columns(targets[rows], part)
            error = z.sub_(normalizer[rows].unsqueeze(1)).exp_()
            error.scatter_add_(1, column, -is_inside.to(error.dtype))  # p - onehot, [n, v]
            if grad_hidden is not None:
                arithmetic.product(grad_hidden[rows], error, head, accumulate=True)
            if total is not None:
                arithmetic.product(total, error.t(), scaled[rows], accumulate=True)
            if grad_bias is not None:
                grad_bias[part] += (error.t() @ minus_grad[rows]).squeeze(1)
        if grad_weight is not None and total is not None and total.dtype != grad_weight.dtype:
            grad_weight[part] = total
    if grad_hidden is not None:
        grad_hidden *= minus_grad
    return Gradients(grad_hidden, grad_weight, grad_bias)


def entropy_gradients(
    tiling: Tiling,
    inputs: tuple[Tensor, Tensor, Tensor | None],
    normalizer: Tensor,
    entropy: Tensor,
    grad: Tensor,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    r"""The same for the entropies: :math:`\partial \mathcal{H} / \partial z = -p\, (\ln p + \mathcal{H})`.

    Args:
        tiling: The tiles.
        inputs: Hidden states ``[N, H]``, head ``[V, H]``, bias ``[V]`` or None.
        normalizer: Log-sum-exp of each row of logits, ``[N]``.
        entropy: Of each row, ``[N]``.
        grad: Gradient of the loss by each entropy, ``[N]``.
        needs: Which of hidden states, head and bias take a gradient.
    """
    hidden, weight, bias = inputs
    arithmetic = tiling.arithmetic
    operand = arithmetic.prepare(hidden)
    minus_grad = (grad / -tiling.temperature).to(arithmetic.accumulator).unsqueeze(1)
    sums = arithmetic.accumulator
    grad_hidden = torch.zeros_like(hidden, dtype=sums) if needs[0] else None
    grad_weight = torch.zeros_like(weight, dtype=sums) if needs[1] else None
    grad_bias = torch.zeros_like(weight[:, 0], dtype=sums) if needs[2] else None
    buffer = tiling.buffer(hidden, weight.shape[0])
    for part in tiling.vocab_slices(weight.shape[0]):
        head = arithmetic.prepare(weight[part])
        for rows in tiling.token_slices(hidden.shape[0]):
            z = tiling.logits(buffer, operand[rows], head, None if bias is None else bias[part])
            z -= normalizer[rows].unsqueeze(1)  # ln p, [n, v]
            slope = z.exp().mul_(z.add_(entropy[rows].unsqueeze(1))).mul_(minus_grad[rows])
            if grad_hidden is not None:
                arithmetic.product(grad_hidden[rows], slope, head, accumulate=True)
            if grad_weight is not None:
                arithmetic.product(grad_weight[part], slope.t(), operand[rows], accumulate=True)
            if grad_bias is not None:
                grad_bias[part] += slope.sum(0)
    return Gradients(grad_hidden, grad_weight, grad_bias)


class ChunkedHead(torch.autograd.Function):
    """Differentiable log-probs of the targets, and differentiable entropies, which cost nothing where none reads them.

    A loss that reads both takes two passes over the vocabulary in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        tiling: Tiling,
    ) -> tuple[Tensor, Tensor]:
        """Scan the vocabulary; keep the normalizer (and the expected head row, where only `hidden` is trained)."""
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        only_hidden = needs_hidden and not needs_weight and not needs_bias
        with tiling.arithmetic.scope(hidden.device):
            scan = scan_vocabulary(tiling, hidden, weight, targets, bias, expect_head=only_hidden)
        ctx.save_for_backward(hidden, weight, targets, bias, scan.normalizer, scan.expected_head, scan.entropy)
        ctx.tiling = tiling
        ctx.set_materialize_grads(False)  # the gradient of what no loss reads is None
        return scan.log_probs, scan.entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, of_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        """Add up what log-probs and entropies give."""
        found = ChunkedHead._of_log_probs(ctx, grad)
        return found if of_entropy is None else ChunkedHead._with_entropy(ctx, of_entropy, found)

    @staticmethod
    def _with_entropy(ctx: Any, grad: Tensor, found: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        hidden, weight, _, bias, normalizer, _, entropy = ctx.saved_tensors
        rows = grad.nonzero().squeeze(1)
        with ctx.tiling.arithmetic.scope(hidden.device):
            more = entropy_gradients(
                ctx.tiling,
                (hidden[rows], weight, bias),
                normalizer[rows],
                entropy[rows],
                grad[rows],
                ctx.needs_input_grad[:3],
            )
        hidden_grad = None
        if more.hidden is not None:
            hidden_grad = torch.zeros_like(hidden).index_copy_(0, rows, more.hidden.to(hidden.dtype))
        added = zip(found, (hidden_grad, more.weight, more.bias), (hidden, weight, bias), strict=False)
        return (*(_sum(first, second, of) for first, second, of in added), None, None)

    @staticmethod
    def _of_log_probs(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        """Recompute tile by tile, for the tokens whose gradient is not zero."""
        if grad is None:
            return None, None, None, None, None
        hidden, weight, targets, bias, normalizer, expected_head, _ = ctx.saved_tensors
        rows = grad.nonzero().squeeze(1)
        full = torch.zeros_like(hidden)
        if expected_head is not None:
            slope = (weight[targets[rows]] - expected_head[rows]) * (grad[rows] / ctx.tiling.temperature).unsqueeze(1)
            return full.index_copy_(0, rows, slope.to(full.dtype)), None, None, None, None
        inputs = (hidden[rows], weight, targets[rows], bias)
        with ctx.tiling.arithmetic.scope(hidden.device):
            found = head_gradients(ctx.tiling, inputs, normalizer[rows], grad[rows], ctx.needs_input_grad[:3])
        if found.hidden is not None:
            full.index_copy_(0, rows, found.hidden.to(full.dtype))
        return (
            full if found.hidden is not None else None,
            found.weight,
            None if found.bias is None or bias is None else found.bias.to(bias.dtype),
            None,
            None,
        )


def _sum(first: Tensor | None, second: Tensor | None, of: Tensor | None) -> Tensor | None:
    """Of two gradients of a tensor, either of which may not be there, in its dtype."""
    if second is None or of is None:
        return first
    second = second.to(of.dtype)
    return second if first is None else first + second
