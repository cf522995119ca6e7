"""Whether what a checkpoint would keep is finite: no weight and no optimizer state of an unsound one can train on."""

import lightning.pytorch as pl
import torch
from torch import Tensor

from llds.modules import SearchAgentModule
from llds.strategies import ZeRO3Strategy, gather, local_part


def what_is_not_finite(trainer: pl.Trainer, module: SearchAgentModule) -> str:
    """The first weight or optimizer state, on any rank, that is not finite, and how many more; every rank must call.

    Returns:
        Words for a message; empty if all are finite.
    """
    found = [name for name, value in _kept(trainer, module) if not bool(torch.isfinite(value).all())]
    everywhere = list(dict.fromkeys(name for share in gather(found) for name in share))
    if not everywhere:
        return ""
    others = f" and {len(everywhere) - 1} more" if len(everywhere) > 1 else ""
    return f"`{everywhere[0]}`{others}"


def _kept(trainer: pl.Trainer, module: SearchAgentModule) -> list[tuple[str, Tensor]]:
    """Names and values of what this rank trains: weights, or its parts of them, and the optimizer's states."""
    weights = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    names = {id(value): name for name, value in weights}
    kept = [(name, local_part(value)) for name, value in weights]
    is_partitioned = isinstance(trainer.strategy, ZeRO3Strategy)
    for optimizer in [trainer.strategy.own_optimizer] if is_partitioned else trainer.optimizers:  # type: ignore[attr-defined]
        for parameter, states in optimizer.state.items():
            of = names.get(id(parameter), "this rank's part of the weights")
            kept += [(f"{kind} of {of}", value) for kind, value in states.items() if isinstance(value, Tensor)]
    return kept
