"""What the losses read of a batch: the tensors of `PolicyBatch` under the names of `llds.losses`."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llds.batches.policy_batch import PolicyBatch
from llds.errors import ConfigurationError
from llds.losses import (
    AdvantageInputs,
    Advantages,
    AdvantageScale,
    GroupAdvantages,
    LossBatch,
    LossInputs,
    Selection,
    select,
)
from llds.losses.masking import masked


def with_advantages(batch: PolicyBatch, scale: AdvantageScale, estimator: Advantages | None) -> PolicyBatch:
    """The batch with the advantages of the policy loss, and those of the outcomes.

    Args:
        batch: All trajectories of an iteration.
        scale: Of the outcomes' advantages.
        estimator: Of the policy loss; None takes the outcomes'.
    """
    known = AdvantageInputs(
        rewards=batch.rewards,
        groups=batch.groups,
        is_correct=batch.correct,
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        action_index=batch.action_index,
        reward_parts=batch.reward_parts,
        influence=batch.influence,
    )
    outcome = GroupAdvantages(scale)(known)
    return replace(batch, advantages=estimator(known) if estimator else outcome, outcome_advantages=outcome)


def check_estimator(estimator: Advantages | None, scale: AdvantageScale) -> None:
    """Refuse a scale that would change nothing, because another estimator of advantages is there.

    Raises:
        ConfigurationError: Naming both settings.
    """
    if estimator is not None and scale != "std":
        raise ConfigurationError(
            "Expected `model.advantage_scale` at its default where `model.advantages` is set "
            f"({type(estimator).__name__}), got {scale}, which would change nothing. Take one of them out."
        )


def observation_mask(batch: PolicyBatch) -> Tensor:
    """True on observation tokens after the first action, ``[B, T]``."""
    return (batch.action_mask.cumsum(1) > 0) & ~batch.action_mask & batch.attention_mask.bool()


def trajectory_advantages(batch: PolicyBatch) -> Tensor:
    """Advantage of each trajectory, ``[B]``: the mean over its action tokens where they differ."""
    if batch.advantages.ndim == 1:
        return batch.advantages
    return masked(batch.advantages, batch.action_mask).sum(1) / batch.action_mask.sum(1).clamp(min=1)


def loss_batch(batch: PolicyBatch) -> LossBatch:
    """What is known of trajectories before the policy of now scores them.

    Args:
        batch: A mini-batch or a micro-batch, with advantages.
    """
    return LossBatch(
        advantages=batch.advantages,
        action_index=batch.action_index,
        outcome_advantages=batch.outcome_advantages,
        is_correct=batch.correct,
        is_void=batch.is_void,
        observation_mask=observation_mask(batch),
        old_log_probs=batch.old_log_probs,
        old_entropy=batch.old_entropy,
        behavior_log_probs=batch.behavior_log_probs,
        loss_weights=batch.loss_weights,
        loss_penalties=batch.loss_penalties,
        loss_pulls=batch.loss_pulls,
        old_proxy=batch.old_proxy,
        excluded=batch.excluded,
    )


def loss_inputs(batch: PolicyBatch, log_probs: Tensor, answer_weight: float = 1.0) -> LossInputs:
    """The same, scored.

    Args:
        batch: With log-probabilities of the old policy.
        log_probs: Of the policy, with gradient, ``[B, T]``.
        answer_weight: Weight beta of the final answer's tokens in the LLDS penalty.
    """
    assert batch.old_log_probs is not None  # noqa: S101 (the module scores before it trains)
    known = vars(loss_batch(batch)) | {"old_log_probs": batch.old_log_probs}
    return LossInputs(
        **known,
        log_probs=log_probs,
        anchor_log_probs=batch.old_log_probs if batch.anchor_log_probs is None else batch.anchor_log_probs,
        ref_log_probs=batch.ref_log_probs,
        entropy=batch.entropy,
        answer_mask=batch.answer_mask,
        answer_weight=answer_weight,
    )


def with_observations(batch: PolicyBatch) -> PolicyBatch:
    """The batch with observation tokens among those that a policy scores.

    Args:
        batch: Of trajectories; the turn numbers that their observation tokens get mean nothing.
    """
    return replace(batch, action_index=torch.where(observation_mask(batch), 0, batch.action_index))


def with_selection(batch: PolicyBatch, selections: Sequence[Selection]) -> PolicyBatch:
    """The batch with what selections say of its tokens.

    Args:
        batch: A whole mini-batch, which is not cut yet.
        selections: Those that look at each trajectory by itself are passed over: the loss asks them.
    """
    chosen = select(loss_batch(batch), [one for one in selections if not one.is_local])
    return replace(
        batch,
        loss_weights=chosen.loss_weights,
        loss_penalties=chosen.loss_penalties,
        loss_pulls=chosen.loss_pulls,
        excluded=chosen.excluded,
    )
