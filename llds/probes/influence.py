r"""Why a correct action loses likelihood: which trajectory pulls it, from hidden states and prediction errors alone.

The quantity G of theorem A.2 (arXiv 2512.04220 v2), split by trajectory. It is what one SGD step on the output head
alone would do, to first order; what the step does through the layers below is left out, and so is the optimizer's
preconditioning. How well it agrees with a whole update is a question for measurement (`llds.probes.record`).
"""

import torch
from torch import Tensor

from llds.losses.log_probs import VOCAB_CHUNK, HeadTokens

TOKEN_CHUNK = 1024
"""Tokens whose likelihood is asked about at a time; all tokens of a question meet each of them."""


@torch.no_grad()
def head_influence(
    tokens: HeadTokens,
    slopes: Tensor,
    actions: Tensor,
    trajectories: Tensor,
    *,
    token_chunk: int = TOKEN_CHUNK,
    vocab_chunk: int = VOCAB_CHUNK,
) -> Tensor:
    r"""First-order change of each action's log-likelihood that each trajectory causes through the output head.

    One SGD step with learning rate :math:`\eta` on the head alone changes the log-likelihood of action :math:`a` by
    :math:`\eta \sum_j I_{a,j} + O(\eta^2)`, with

    .. math::
        I_{a,j} = \frac{1}{\tau^2} \sum_{k \in a} \sum_{k' \in j} c_{k'} \, \alpha_{k,k'} \,
            \langle h_k, h_{k'} \rangle, \qquad
        \alpha_{k,k'} = \langle e_{y_k} - \pi_k, \; e_{y_{k'}} - \pi_{k'} \rangle

    where :math:`c_{k'} = -\partial L / \partial \ln \pi(y_{k'})` is the weight of the token in the gradient. With
    :math:`c = \pm p^\pm` (the advantages), :math:`-\sum_j I_{a,j}` is G of theorem A.2: its negative part comes from
    the trajectories with :math:`c < 0`, its positive part from those with :math:`c > 0`.

    The prediction-error similarity is taken apart,
    :math:`\alpha_{k,k'} = 1[y_k = y_{k'}] - \pi_k(y_{k'}) - \pi_{k'}(y_k) + \sum_v \pi_k(v) \pi_{k'}(v)`, so that
    memory is ``token_chunk * N`` and two tiles of probabilities, whatever the vocabulary.

    Args:
        tokens: All action tokens of the question.
        slopes: The weights :math:`c`, ``[N]``.
        actions: Number of the action that each token belongs to, 0 to A - 1; -1 where it is not asked about, ``[N]``.
        trajectories: Number of the trajectory that each token belongs to, 0 to B - 1, ``[N]``.
        token_chunk: Tokens that are asked about at a time.
        vocab_chunk: Vocabulary entries of a tile.

    Returns:
        ``[A, B]``, fp32 (fp64 for fp64 hidden states): nats per unit of learning rate. Empty for no tokens.
    """
    n_actions, n_trajectories = _count(actions), _count(trajectories)
    states = tokens.states
    influence = states.new_zeros(n_actions, n_trajectories)
    if n_actions == 0:
        return influence
    by_trajectory = states.new_zeros(n_trajectories, len(trajectories))
    by_trajectory[trajectories, torch.arange(len(trajectories), device=states.device)] = slopes.to(states.dtype)
    for asked in (actions >= 0).nonzero()[:, 0].split(token_chunk):
        similarity = states[asked] @ states.t()  # [n, N]
        errors = _error_similarity(tokens, asked, vocab_chunk)
        influence.index_add_(0, actions[asked], (errors * similarity) @ by_trajectory.t())
    return influence / tokens.temperature**2


def _count(numbers: Tensor) -> int:
    return int(numbers.max()) + 1 if numbers.numel() else 0


def _error_similarity(tokens: HeadTokens, asked: Tensor, vocab_chunk: int) -> Tensor:
    """The similarity alpha of the prediction errors of some tokens and of all, ``[n, N]``."""
    targets = tokens.targets
    alpha = (targets[asked].unsqueeze(1) == targets).to(tokens.states.dtype)
    alpha -= tokens.all_log_probs(asked, targets).exp()
    alpha -= tokens.all_log_probs(slice(None), targets[asked]).exp().t()
    for part in tokens.slices(vocab_chunk):
        every = tokens.all_log_probs(slice(None), part).exp()
        alpha += every[asked] @ every.t()
    return alpha
