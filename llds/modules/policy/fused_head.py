"""The head of a policy, fused with the log-probabilities: a module of its own, so that ZeRO-3 can gather the weight.

DeepSpeed gathers parameters around the forward and the backward of a module. The head's weight is read here, and not
in the model's own head, and may be that of the embeddings.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llds.errors import ConfigurationError
from llds.losses.log_probs import HeadTokens, action_log_probs, scatter_to_tokens
from llds.losses.masking import action_mask
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
        self,
        hidden: Tensor,
        input_ids: Tensor,
        action_index: Tensor,
        copy_of: Tensor | None,
        temperature: float,
        watched: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Score the action tokens.

        Args:
            hidden: Hidden state before each distinct one of them, ``[D, H]``.
            input_ids: ``[B, T]`` long.
            action_index: Turn number on action tokens, -1 elsewhere, ``[B, T]`` long.
            copy_of: Which of the D each action token is, ``[N]`` long; None where D = N.
            temperature: Divides the logits.
            watched: Vocabulary entries whose summed probability is wanted too, ``[K]`` long: ``K`` more products for
                each token, without gradient.

        Returns:
            Log-probabilities and entropies, and what is watched where it is, ``[B, T]``.
        """
        [head] = self._head
        scores = action_log_probs(
            hidden, head.weight, input_ids, action_index, copy_of=copy_of, bias=head.bias, temperature=temperature
        )
        if watched is None:
            return *scores, None
        mask = action_mask(action_index)
        each = hidden if copy_of is None else hidden[copy_of]
        tokens = HeadTokens(each, input_ids[mask], head.weight, head.bias, temperature, scores.log_probs[mask])
        return *scores, scatter_to_tokens(tokens.mass(watched), action_index)


@torch.no_grad()
def logit_scale(model: PreTrainedModel, path: str) -> float:
    """What a model multiplies the head's product by: 1 for most.

    Args:
        model: The model, or a small one of its kind.
        path: Its folder or name, for the message.

    Raises:
        ConfigurationError: If it changes it in another way: the loss would train another distribution than is sampled.
    """
    text = model.config.get_text_config()
    ids = torch.arange(min(4, text.vocab_size), device=model.device)[None]
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    head: Any = model.get_output_embeddings()
    linear, logits = head(hidden).double(), model(input_ids=ids, use_cache=False).logits.double()
    if torch.equal(linear, logits):
        return 1.0
    capped = getattr(text, "final_logit_softcapping", None)
    scale = float((linear * logits).sum() / (linear * linear).sum())
    near = 0.02 if model.dtype == torch.bfloat16 else 1e-4
    if not capped and head.bias is None and bool(((linear * scale - logits).abs() <= near * logits.abs().max()).all()):
        said = [float(value) for value in vars(text).values() if isinstance(value, int | float) and value > 0]
        known = [one for one in (*said, *(1 / one for one in said)) if abs(one - scale) < near * scale]
        return min(known, key=lambda one: abs(one - scale)) if known else scale  # logits in bf16 give two digits
    why = f"caps its logits softly (`final_logit_softcapping` {capped:g})" if capped else "changes them"
    raise ConfigurationError(
        "Expected `model.policy` to be a model whose logits are a linear map of its last hidden state, got "
        f"{path}, a {type(model).__name__} that {why}: the loss would train another distribution than is sampled. "
        "Choose another model."
    )
