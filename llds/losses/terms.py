r"""Further terms of the objective, beside policy loss, KL and LLDS: entropy, positive NLL, observation NLL.

Named in ``model.terms``, each with a coefficient. They act on all tokens of theirs, whatever selections leave to the
policy loss.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.loss import Loss, LossBatch, LossInputs, LossOutput
from llds.losses.masking import Aggregation, action_mask, average, check_choice, check_positive, count, masked

ENTROPY = "policy/entropy"
"""Mean entropy of the policy at action tokens, of an iteration (`llds.metrics.policy`)."""


class EntropyBonus(Loss):
    r"""A reward for entropy at action tokens, constant or only while entropy is below a target.

    .. math::
        L = -\frac{1}{N} \sum_k \mathcal{H}\big(\pi_\theta(\cdot \mid y_{<k})\big)

    :math:`N` action tokens; the gradient is that of the whole distribution. Without a target, the term of A3C (arXiv
    1602.01783) and of TRL's ``entropy_coef``. With one, the adaptive control of Skywork-OR1 (arXiv 2505.22312): after
    each iteration the coefficient rises by ``step`` where entropy was at most the target and falls by it otherwise (not
    below 0), and the term acts only after an iteration whose entropy was at most the target. A term.

    Args:
        coefficient: Weight of the term; the first one, where it adapts.
        target: Entropy in nats; null: the coefficient stays.
        step: Change of the coefficient from one iteration to the next, with a target.
        aggregation: ``token`` as above; ``trajectory``: mean over each trajectory's tokens, then over trajectories.

    Note:
        Skywork-OR1 changes the coefficient with each optimizer step; here it is the same for a whole iteration.
    """

    name = "entropy"
    reads_entropy = True

    def __init__(
        self,
        coefficient: float = 1e-3,
        target: float | None = None,
        step: float = 5e-3,
        aggregation: Aggregation = "token",
    ) -> None:
        super().__init__(coefficient)
        check_choice("aggregation", aggregation, Aggregation)
        check_positive("EntropyBonus.step", step)
        if target is not None:
            check_positive("EntropyBonus.target", target)
        self.target, self.step = target, step
        self.aggregation: Aggregation = aggregation
        self.is_acting = target is None

    def __call__(self, inputs: LossInputs, denominator: Tensor | None = None) -> LossOutput:
        """Compute the term of a micro-batch."""
        if inputs.entropy is None:
            raise ConfigurationError("Expected `entropy` for EntropyBonus, got None: the policy's forward gives it.")
        mask = action_mask(inputs.action_index)
        denominator = self.denominator(inputs) if denominator is None else denominator
        entropy = average(masked(inputs.entropy, mask), mask, self.aggregation, denominator)
        loss = -entropy if self.is_acting else -entropy * 0
        return LossOutput(loss, {"train/entropy_coefficient": entropy.new_tensor(self.coefficient * self.is_acting)})

    def denominator(self, batch: LossBatch) -> Tensor:
        """Count the action tokens, or the trajectories that have some."""
        return count(action_mask(batch.action_index), self.aggregation)

    def adapted(self) -> dict[str, Any]:
        """The coefficient, where it follows a target, and whether the term acts."""
        return {} if self.target is None else {"coefficient": self.coefficient, "is_acting": self.is_acting}

    def adapt(self, metrics: Mapping[str, float]) -> None:
        """Move the coefficient towards the target, where there is one."""
        entropy = metrics.get(ENTROPY)
        if self.target is None or entropy is None:
            return
        self.is_acting = entropy <= self.target
        self.coefficient = max(0.0, self.coefficient + (self.step if self.is_acting else -self.step))


class PositiveNLL(Loss):
    r"""Likelihood of what was right: a supervised term on the correct trajectories of the iteration.

    .. math::
        L = -\frac{1}{\sum_{i \in T} |y_i|} \sum_{i \in T} \sum_k \ln \pi_\theta(y_{i,k})

    arXiv 2504.05118 (VAPO), with weight 0.1; :math:`T` are the correct trajectories. It pulls their likelihood up
    always, where LLDS only keeps it from falling: the plain control for LLDS. A term.

    Args:
        coefficient: Weight of the term.
        aggregation: ``token`` as above; ``trajectory``: mean over each trajectory's tokens, then over trajectories.
    """

    name = "positive_nll"

    def __init__(self, coefficient: float = 0.1, aggregation: Aggregation = "token") -> None:
        super().__init__(coefficient)
        check_choice("aggregation", aggregation, Aggregation)
        self.aggregation: Aggregation = aggregation

    def __call__(self, inputs: LossInputs, denominator: Tensor | None = None) -> LossOutput:
        """Compute the term of a micro-batch."""
        mask = self._mask(inputs)
        denominator = self.denominator(inputs) if denominator is None else denominator
        return LossOutput(-average(masked(inputs.log_probs, mask), mask, self.aggregation, denominator), {})

    def denominator(self, batch: LossBatch) -> Tensor:
        """Count their action tokens, or them."""
        return count(self._mask(batch), self.aggregation)

    def _mask(self, batch: LossBatch) -> Tensor:
        return action_mask(batch.action_index) & batch.need("is_correct", self).unsqueeze(1)


class ObservationNLL(Loss):
    r"""ECHO: the policy also learns to predict what its tools answer.

    .. math::
        L = -\frac{1}{M} \sum_m \ln \pi_\theta(o_m)

    :math:`o` are the :math:`M` tokens of observations. prime-rl, docs/algorithms.md, with weight 0.1. Observations are
    out of distribution at first, which lowers the likelihood of what follows (arXiv 2512.04220 v2). The only term that
    has a gradient on tokens that the policy did not sample; they are scored with the others, at the cost of the head on
    them. A term.

    Args:
        coefficient: Weight of the term.
    """

    name = "observation_nll"
    reads_observations = True

    def __init__(self, coefficient: float = 0.1) -> None:
        super().__init__(coefficient)

    def __call__(self, inputs: LossInputs, denominator: Tensor | None = None) -> LossOutput:
        """Compute the term of a micro-batch."""
        mask = inputs.need("observation_mask", self)
        denominator = self.denominator(inputs) if denominator is None else denominator
        return LossOutput(-average(masked(inputs.log_probs, mask), mask, "token", denominator), {})

    def denominator(self, batch: LossBatch) -> Tensor:
        """Count the observation tokens."""
        return batch.need("observation_mask", self).sum(dtype=torch.float64)
