"""The head of a policy, fused with the log-probabilities: a module of its own, so that ZeRO-3 can gather the weight.

DeepSpeed gathers parameters around the forward and the backward of a module. The head's weight is read here, and not
in the model's own head, and may be that of the embeddings.
"""

from torch import Tensor, nn

from llds.losses.log_probs import TokenScores, action_log_probs
from llds.strategies import reads


class FusedHead(nn.Module):
    """Log-probabilities and entropies of action tokens.

    Args:
        head: The linear map of the model; it stays the model's, and is no part of this module's state.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self._head = [head]  # in a list, torch does not take it for a part of this module
        reads(self, head.weight, head.bias)

    def forward(
        self, hidden: Tensor, input_ids: Tensor, action_index: Tensor, copy_of: Tensor | None, temperature: float
    ) -> TokenScores:
        """Score the action tokens.

        Args:
            hidden: Hidden state before each distinct one of them, ``[D, H]``.
            input_ids: ``[B, T]`` long.
            action_index: Turn number on action tokens, -1 elsewhere, ``[B, T]`` long.
            copy_of: Which of the D each action token is, ``[N]`` long; None where D = N.
            temperature: Divides the logits.

        Returns:
            Log-probabilities and entropies, ``[B, T]``.
        """
        [head] = self._head
        return action_log_probs(
            hidden, head.weight, input_ids, action_index, copy_of=copy_of, bias=head.bias, temperature=temperature
        )
