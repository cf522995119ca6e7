"""What all losses share: the tensors they read, the record they return, and the interface of a loss named in YAML.

The functions of this package (`grpo_loss`, `llds_penalty`, ...) take tensors; the classes (`GRPOLoss`, `LLDSPenalty`,
...) hold the settings of one and read the tensors from a `LossInputs`, so that a configuration can name and swap them.

Left out on purpose: multiplying by the coefficient, adding losses up, and reducing denominators over ranks, which the
module does.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from llds.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class LossBatch:
    """What is known of trajectories before the policy of now scores them. Fields that nobody reads may be None.

    Attributes:
        advantages: What the policy loss weighs tokens with: ``[B]``, or ``[B, T]`` where tokens differ.
        action_index: Turn number of each action token, -1 elsewhere, ``[B, T]`` long.
        outcome_advantages: How the outcome compares with those of the group, ``[B]``, whatever `advantages` are: LLDS
            preserves by its sign. None: `advantages`, which are then ``[B]``.
        is_correct: Whether the answer is right, ``[B]`` bool.
        is_void: Whether a turn was neither a tool call nor an answer, ``[B]`` bool.
        observation_mask: True on the tokens of observations after the first action, ``[B, T]`` bool.
        old_log_probs: Under the old policy (the trainer's, at the start of the iteration), ``[B, T]``.
        old_entropy: Of the old policy's distribution at each action token, in nats, ``[B, T]``.
        behavior_log_probs: Under the behavior policy (the sampler's), ``[B, T]``.
        loss_weights: Multiply the policy loss of each token, ``[B, T]``, not negative; None: all 1. 0 leaves a token
            out of the sum, and counts it.
        loss_penalties: Coefficient of ``abs(log_probs - old_log_probs)`` on each token, ``[B, T]``; None: all 0.
        loss_pulls: Coefficient of k3 to `old_proxy` on each token whose log-prob is below, ``[B, T]``; None: all 0.
        old_proxy: Log-probs under the old policy without its unlikely tokens, ``[B, T]``; -inf on those (`LpReg`).
        excluded: Tokens that are no part of the policy loss and are not counted, ``[B, T]`` bool; None: none.
    """

    advantages: Tensor
    action_index: Tensor
    outcome_advantages: Tensor | None = None
    is_correct: Tensor | None = None
    is_void: Tensor | None = None
    observation_mask: Tensor | None = None
    old_log_probs: Tensor | None = None
    old_entropy: Tensor | None = None
    behavior_log_probs: Tensor | None = None
    loss_weights: Tensor | None = None
    loss_penalties: Tensor | None = None
    loss_pulls: Tensor | None = None
    old_proxy: Tensor | None = None
    excluded: Tensor | None = None

    @property
    def outcome(self) -> Tensor:
        """Advantage of the outcome, ``[B]``."""
        return self.advantages if self.outcome_advantages is None else self.outcome_advantages

    @property
    def policy_index(self) -> Tensor:
        """`action_index` for the policy loss: -1 on tokens that a selection excluded, too."""
        return self.action_index if self.excluded is None else self.action_index.masked_fill(self.excluded, -1)

    def need(self, name: str, reader: object) -> Tensor:
        """A field that must be there.

        Args:
            name: Of the field.
            reader: Who reads it, for the message.

        Raises:
            ConfigurationError: If it is None.
        """
        value: Tensor | None = vars(self)[name]
        if value is None:
            raise ConfigurationError(
                f"Expected `{name}` for {type(reader).__name__}, got None: this batch was made without. Let "
                "`SearchAgentModule.prepare` make it, or give it."
            )
        return value


@dataclass(frozen=True, kw_only=True)
class LossInputs(LossBatch):
    """The tensors of one micro-batch. Entry ``[b, t]`` of every log-prob tensor is about token ``t`` of the sequence.

    Attributes:
        log_probs: Under the policy, ``[B, T]``; gradients flow to it.
        old_log_probs: As in `LossBatch`; always there.
        anchor_log_probs: Under the policy that LLDS measures falls from, ``[B, T]``; the old one's, or a snapshot's.
        ref_log_probs: Under the reference policy, ``[B, T]``; None where no loss needs them.
        entropy: Of the policy's distribution at each action token, in nats, ``[B, T]``; gradients flow to it.
        answer_mask: True on the tokens of the final answer span, ``[B, T]`` bool; None for no answer masking.
        answer_weight: Weight of these tokens in LLDS (beta); 1 is no masking.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    anchor_log_probs: Tensor
    ref_log_probs: Tensor | None = None
    entropy: Tensor | None = None
    answer_mask: Tensor | None = None
    answer_weight: float = 1.0


@dataclass(frozen=True)
class LossOutput:
    """A loss and what it saw.

    Attributes:
        loss: Scalar, differentiable, without any coefficient.
        metrics: Detached scalars about the tensors given (not about the whole mini-batch), by metric path.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


class Loss(ABC):
    """A term of the training objective. Subclass it to bring your own, and name the subclass in the configuration.

    Args:
        coefficient: Weight of the term in the objective, not negative. The caller multiplies.

    Attributes:
        coefficient: As given; a term that adapts changes it between iterations.
        name: Of the term among others, in ``train/NAME_loss``; that of a further term of the objective is its own.
        reads_entropy: Whether it needs the entropy of the policy.
        reads_observations: Whether it needs log-probs of observation tokens, which are not scored otherwise.
        is_by_token: Whether, as the policy loss, it has a term for each action token. One without takes ``[B]``
            advantages, and no selection that chooses tokens.
        corrects_sampler: Whether its ratio is to the behavior policy, so that nothing else may correct for the sampler.

    Raises:
        ConfigurationError: For a negative or non-finite coefficient.
    """

    name: ClassVar[str] = "term"
    reads_entropy: ClassVar[bool] = False
    reads_observations: ClassVar[bool] = False
    is_by_token: ClassVar[bool] = True
    corrects_sampler: ClassVar[bool] = False

    def __init__(self, coefficient: float = 1.0) -> None:
        if not 0 <= coefficient < float("inf"):
            raise ConfigurationError(
                f"Expected `coefficient` of {type(self).__name__} to be a number >= 0, got {coefficient}. "
                "Use 0 to switch the term off."
            )
        self.coefficient = coefficient

    @abstractmethod
    def __call__(self, inputs: LossInputs, denominator: Tensor | None = None) -> LossOutput:
        """Compute the term.

        Args:
            inputs: The tensors of one micro-batch.
            denominator: `denominator` of the whole mini-batch, added up over micro-batches and ranks; None: of these
                tensors alone.
        """

    @abstractmethod
    def denominator(self, batch: LossBatch) -> Tensor:
        """Count what the term averages over.

        Args:
            batch: The whole mini-batch, or a part of it.

        Returns:
            Scalar float64; the counts of micro-batches and ranks add up.
        """

    def adapt(self, metrics: Mapping[str, float]) -> None:  # noqa: B027 (most terms have nothing to do)
        """Change what adapts, once an iteration and alike on every rank.

        Args:
            metrics: Of the iteration that was just trained on, the same on every rank.
        """

    @property
    def is_off(self) -> bool:
        """Whether it has no weight, and never gets one."""
        return self.coefficient == 0 and not self.adapted()

    def adapted(self) -> dict[str, Any]:
        """What `adapt` has changed, as attributes by name, for a checkpoint; nothing where nothing adapts."""
        return {}
