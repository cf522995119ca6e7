"""Signals of tokens that were not sampled: observations, and the call format's marks where they could have stood."""

import torch
from torch import Tensor

from llds.metrics.averages import as_floats, masked_mean


def observation_metrics(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> dict[str, float]:
    r"""How the policy has come to see what tools returned, which no loss trains it on.

    .. math::
        \frac{1}{B} \sum_b \frac{1}{|O_b|} \sum_{t \in O_b}
        \big( \ln \pi_\theta(o_t \mid o_{<t}) - \ln \pi_{ref}(o_t \mid o_{<t}) \big)

    Args:
        log_probs: Under the policy, ``[B, T]``; anything off the mask.
        ref_log_probs: Under the reference, ``[B, T]``; anything off the mask.
        mask: True on observation tokens, :math:`O`, ``[B, T]``; rows without any do not count.

    Returns:
        ``policy/observation_log_ratio``, and ``policy/observation_log_likelihood`` (of the policy alone): means per
        token, then over trajectories, in nats; empty without an observation.
    """
    change = torch.where(mask, log_probs - ref_log_probs, 0.0)
    return as_floats(
        {
            "policy/observation_log_ratio": masked_mean(change, mask),
            "policy/observation_log_likelihood": masked_mean(log_probs, mask),
        }
    )


def control_metrics(probability: Tensor, input_ids: Tensor, action_mask: Tensor, control: Tensor) -> dict[str, float]:
    """How likely the call format's marks are where the policy sampled something else.

    Args:
        probability: Of all control tokens together before each token, ``[B, T]``.
        input_ids: ``[B, T]`` long.
        action_mask: True on action tokens, ``[B, T]``.
        control: The control tokens, ``[K]`` long.

    Returns:
        ``policy/control_probability``: mean per token, then over trajectories, of the action tokens that are no control
        token; empty without any. Of the largest nothing is said: where a mark may or may not follow, it is near 1.
    """
    others = action_mask & ~torch.isin(input_ids, control)
    return as_floats({"policy/control_probability": masked_mean(probability, others)})
