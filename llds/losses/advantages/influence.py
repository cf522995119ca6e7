r"""What each token does to the right trajectories of its group through the output head: NTHR.

To first order, and through the head alone, as in theorem A.2 (arXiv 2512.04220 v2); `llds.probes.influence` asks the
same of whole actions, by trajectory.
"""

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.advantages.estimator import AdvantageInputs, Advantages, Reweighed
from llds.losses.advantages.tokens import groups_of
from llds.losses.log_probs import VOCAB_CHUNK, HeadTokens
from llds.losses.masking import action_mask, check_positive, masked, per_token


@torch.no_grad()
def influence_on(tokens: HeadTokens, anchors: Tensor, *, vocab_chunk: int = VOCAB_CHUNK) -> Tensor:
    r"""How much the log-likelihood of the anchors rises where a token's does, through the output head.

    .. math::
        s_n = \frac{1}{\tau^2} \sum_{m \in \text{anchors}} \alpha_{m,n} \langle h_m, h_n \rangle, \qquad
        \alpha_{m,n} = \langle e_{y_m} - \pi_m, \; e_{y_n} - \pi_n \rangle

    arXiv 2505.18830, eq. 7, for all tokens and the whole vocabulary at the cost of three products with the head: the
    anchors' part of the sum is one matrix, as large as the head and taken in slices.

    Args:
        tokens: Of one group.
        anchors: Which of them are anchors, ``[N]`` bool.
        vocab_chunk: Vocabulary entries of a slice.

    Returns:
        ``[N]``, fp32 (fp64 for fp64 hidden states).
    """
    states = tokens.states
    influence = states.new_zeros(len(states))
    for part in tokens.slices(vocab_chunk):
        errors = (tokens.targets.unsqueeze(1) == part).to(states.dtype)
        errors -= tokens.all_log_probs(slice(None), part).exp()  # [N, v]
        pull = errors[anchors].t() @ states[anchors]  # [v, H]
        influence += ((errors @ pull) * states).sum(1)
    return influence / tokens.temperature**2


class NTHRAdvantages(Reweighed):
    r"""NTHR: tokens of wrong trajectories that pull the right ones down most are unlearned less.

    .. math::
        A'_{i,k} = \eta A_i \quad\text{where } i \text{ is wrong and } s_{i,k} > \tau, \qquad
        \tau = \beta \min_{j \text{ right}} \frac{1}{|y_j|} \sum_k s_{j,k}, \qquad \eta = 2\,|0.5 - p|

    arXiv 2505.18830, algorithm 1. :math:`s` is what the token does to the right trajectories of its group
    (`influence_on`) under the old policy, :math:`p` the share of the group that is right. By the authors of LLDS: the
    earlier cure of the same displacement. Acts on the negative advantages of another estimator, in groups with right
    and wrong trajectories; ``[B, T]``.

    Args:
        weight: :math:`\eta`, in [0, 1]; null: as above. 0 in the paper's study of displacement.
        scale: :math:`\beta`, above 0.
        of: The other estimator; null: GRPO's.

    Note:
        The paper takes the vocabulary of the group's own tokens; here it is the whole one.
    """

    reads_influence = True
    is_by_token = True

    def __init__(self, weight: float | None = None, scale: float = 1.0, of: Advantages | None = None) -> None:
        if weight is not None and not 0 <= weight <= 1:
            raise ConfigurationError(f"Expected `weight` of NTHRAdvantages in [0, 1] or null, got {weight}.")
        check_positive("NTHRAdvantages.scale", scale)
        self.weight, self.scale = weight, scale
        super().__init__(of)

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Weigh the other's, group by group."""
        mask = action_mask(inputs.action_index)
        influence = masked(inputs.need_influence(self), mask)
        values = per_token(self.of(inputs), mask).expand(mask.shape).clone()
        for rows in groups_of(inputs.groups):
            right = rows[inputs.is_correct[rows] & mask[rows].any(1)]
            wrong = rows[~inputs.is_correct[rows]]
            if len(right) and len(wrong):
                threshold = self.scale * (influence[right].sum(1) / mask[right].sum(1)).min()
                share = float(inputs.is_correct[rows].double().mean())
                weight = 2 * abs(0.5 - share) if self.weight is None else self.weight
                chosen = mask[wrong] & (influence[wrong] > threshold) & (values[wrong] < 0)
                values[wrong] = torch.where(chosen, weight * values[wrong], values[wrong])
        return values
