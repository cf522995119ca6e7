"""The objective weighs its policy loss, and nothing else, for the gap to the sampler; only if it is told to."""

from dataclasses import replace

import pytest
import torch

from llds.batches import PolicyBatch
from llds.losses import GRPOLoss, ImportanceCorrection, KLPenalty, LLDSPenalty, grpo_loss, importance_weights
from llds.metrics import as_floats
from llds.modules.objective import Objective


def batch() -> PolicyBatch:
    generator = torch.Generator().manual_seed(0)
    old, behavior, reference = -torch.rand(3, 4, 6, generator=generator)
    index = torch.tensor([[-1, 0, 0, -1, 1, 1]] * 3 + [[-1, 0, -1, -1, -1, -1]])
    zeros = torch.zeros(4, 6, dtype=torch.long)
    return PolicyBatch(
        input_ids=zeros,
        attention_mask=zeros + 1,
        action_index=index,
        answer_mask=zeros.bool(),
        behavior_log_probs=behavior,
        rewards=torch.ones(4),
        correct=torch.ones(4, dtype=torch.bool),
        advantages=torch.tensor([1.0, -1.0, 0.5, 2.0]),
        groups=torch.zeros(4, dtype=torch.long),
        old_log_probs=old,
        ref_log_probs=reference,
    )


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_policy_loss_is_weighed_and_the_penalties_are_not(level: str) -> None:
    data, correction = batch(), ImportanceCorrection(level=level, cap=1.5)  # type: ignore[arg-type]
    assert data.old_log_probs is not None
    log_probs = data.old_log_probs - 0.1
    plain = Objective(GRPOLoss(), KLPenalty(0.1), LLDSPenalty(0.3))
    corrected = replace(plain, importance=correction)
    denominators = plain.denominators(data)
    before, after = (as_floats(one.signals(log_probs, data, denominators)) for one in (plain, corrected))
    weights = importance_weights(
        data.old_log_probs, data.behavior_log_probs, data.action_index, level=correction.level, cap=1.5
    )
    expected = grpo_loss(log_probs, data.old_log_probs, data.advantages, data.action_index, weights=weights).loss
    assert after["train/policy_loss"] == pytest.approx(expected.item(), abs=1e-6)
    assert after["train/policy_loss"] != pytest.approx(before["train/policy_loss"], abs=1e-4)
    assert after["train/kl_loss"] == before["train/kl_loss"]
    assert after["train/llds_loss"] == before["train/llds_loss"]


def test_a_sampler_that_is_the_old_policy_changes_nothing() -> None:
    data = batch()
    assert data.old_log_probs is not None
    data = replace(data, behavior_log_probs=data.old_log_probs)
    plain = Objective(GRPOLoss(), None, None)
    denominators = plain.denominators(data)
    corrected = replace(plain, importance=ImportanceCorrection())
    log_probs = data.old_log_probs + 0.05
    assert torch.equal(corrected.loss(log_probs, data, denominators), plain.loss(log_probs, data, denominators))
