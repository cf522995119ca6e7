r"""LLDS and the watch for verl: a policy loss by name, and a logger.

verl imports this module in every process where the environment says so; nothing of verl's own code changes::

    VERL_USE_EXTERNAL_MODULES=llds.integrations.verl python -m verl.trainer.main_ppo ... \
        actor_rollout_ref.actor.policy_loss.loss_mode=llds 'trainer.logger=[console,llds]'

verl's configuration has no place for settings of others' losses: they are read from the environment, ``LLDS_LAMBDA``
(default 0.2; 0 is verl's own loss to the bit), ``LLDS_GATE`` (action, response or token), and for the logger
``LLDS_WEBHOOK``.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.integrations.watch import Watch
from llds.losses import LLDSPenalty, LossInputs, number_actions
from llds.monitor.sources.verl import VOCABULARY

NAME = "llds"
"""Of the policy loss (``loss_mode``) and of the logger."""
BASE = "vanilla"
"""verl's loss that the penalty is added to."""


def policy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Verl's own clipped loss and lambda times the LLDS penalty, averaged over all action tokens of the mini-batch.

    That is the authors' aggregation, whose denominator verl knows for the whole mini-batch. Each run of tokens in
    ``response_mask`` is an action.

    Args:
        old_log_prob: Under the old policy, ``[B, T]``.
        log_prob: Under the policy, ``[B, T]``.
        advantages: The same on all tokens of a response, as those of GRPO are, ``[B, T]``.
        response_mask: 1 on what the policy sampled, ``[B, T]``.
        loss_agg_mode: Of verl's loss.
        config: verl's ActorConfig.
        rollout_is_weights: Of verl's loss.

    Returns:
        The loss, and verl's metrics with ``actor/llds_loss`` and ``actor/llds_open_share``, and what the likelihood of
        responses that are better than those beside them follows from (``actor/better_*``).
    """
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    base = get_policy_loss_fn(BASE)
    loss, metrics = base(
        old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=rollout_is_weights
    )
    mask = response_mask.bool()
    whole = torch.where(mask, advantages, 0.0).sum(1) / mask.sum(1).clamp(min=1)
    metrics = metrics | _likelihood(old_log_prob, log_prob, mask, whole)
    penalty = _penalty()
    if penalty.coefficient == 0:
        return loss, metrics
    terms = LossInputs(
        log_probs=log_prob,
        old_log_probs=old_log_prob,
        anchor_log_probs=old_log_prob,
        advantages=whole,
        action_index=number_actions(mask),
    )
    found = penalty(terms, _tokens(mask, config))
    open_share = found.metrics["llds/open_share"]
    metrics |= {"actor/llds_loss": found.loss.detach().item(), "actor/llds_open_share": open_share.item()}
    return loss + penalty.coefficient * found.loss, metrics


def _penalty() -> LLDSPenalty:
    try:
        coefficient = float(os.environ.get("LLDS_LAMBDA", "0.2"))
    except ValueError as error:
        raise ConfigurationError(
            f"Expected LLDS_LAMBDA to be a number >= 0, got {os.environ['LLDS_LAMBDA']!r}."
        ) from error
    gate: Any = os.environ.get("LLDS_GATE", "action")
    return LLDSPenalty(coefficient, gate=gate, aggregation="token")


def _tokens(mask: Tensor, config: Any) -> Tensor:
    """Action tokens of the mini-batch on this process, on average; those of the micro-batch where verl says no more."""
    known = config.global_batch_info if config is not None else {}
    tokens = known.get("batch_num_tokens")
    return mask.sum() if tokens is None else torch.as_tensor(tokens / known.get("dp_size", 1), device=mask.device)


def _likelihood(old: Tensor, new: Tensor, mask: Tensor, advantages: Tensor) -> dict[str, float]:
    """Of the responses of a micro-batch that are better than those beside them: their number, and sums over them.

    verl averages over micro-batches, of which some have none: what it logs of the sums over what it logs of the number
    is the mean of all (`llds.monitor.sources.verl`).
    """
    better = mask & (advantages > 0)[:, None]
    tokens = better.sum(1)
    sums = [(torch.where(better, part, 0.0).sum(1) / tokens.clamp(min=1)).sum() for part in (old, new.detach() - old)]
    return {
        "actor/better_responses": (tokens > 0).sum().item(),
        "actor/better_log_likelihood": sums[0].item(),
        "actor/better_displacement": sums[1].item(),
    }


class CollapseLogger:
    """A logger of verl's `Tracking` that only watches: one line on the console when trouble begins, and alerts."""

    def __init__(self) -> None:
        self.watch = Watch(VOCABULARY, webhook=os.environ.get("LLDS_WEBHOOK"))

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Judge what is logged at a step."""
        self.watch.add(step, data)


def check_updates(config: Mapping[str, Any] | None) -> None:
    """Refuse LLDS where verl makes one update of each rollout.

    Args:
        config: verl's whole configuration, as it hands it to its loggers; None says nothing.

    Raises:
        ConfigurationError: If the policy is always the old policy, so that the penalty would always be 0.
    """
    parts = (config or {}).get("actor_rollout_ref") or {}
    actor, batch = parts.get("actor") or {}, ((config or {}).get("data") or {}).get("train_batch_size") or 0
    mini_batch, epochs = actor.get("ppo_mini_batch_size") or 0, actor.get("ppo_epochs") or 1
    is_ours = (actor.get("policy_loss") or {}).get("loss_mode") == NAME and _penalty().coefficient > 0
    if is_ours and epochs == 1 and 0 < batch <= mini_batch:
        raise ConfigurationError(
            "Expected several updates of each rollout for LLDS, got one: ppo_epochs 1 and ppo_mini_batch_size "
            f"{mini_batch} of {batch} prompts. The penalty would always be 0. Set ppo_epochs=2, or a smaller "
            "ppo_mini_batch_size; LLDS_LAMBDA=0 trains without it."
        )


def register() -> None:
    """Make the loss and the logger known to verl; does nothing the second time."""
    from verl.trainer.ppo.core_algos import register_policy_loss
    from verl.utils.tracking import Tracking

    register_policy_loss(NAME)(policy_loss)
    if NAME in Tracking.supported_backend:
        return
    Tracking.supported_backend.append(NAME)
    start = Tracking.__init__

    def start_with_watch(
        self: Any, project_name: str, experiment_name: str, default_backend: Any = "console", config: Any = None
    ) -> None:
        check_updates(config)
        start(self, project_name, experiment_name, default_backend, config)
        if NAME in ([default_backend] if isinstance(default_backend, str) else default_backend):
            self.logger[NAME] = CollapseLogger()

    Tracking.__init__ = start_with_watch


if os.environ.get("VERL_USE_EXTERNAL_MODULES", "").find(__name__) >= 0:
    register()
