"""What the search agent keeps in a checkpoint besides weights, and which weights those are.

Left out on purpose: when checkpoints are written (`llds.callbacks.checkpoint`), and how a strategy stores them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from llds.errors import ConfigurationError
from llds.losses import Loss
from llds.strategies import is_partitioned

_REFERENCE = "reference."


@dataclass(frozen=True)
class AgentState:
    """The entry ``search_agent`` of a checkpoint, as a dictionary of plain values.

    Attributes:
        iteration: Rollout iterations done.
        metrics: Of the last; saved before the loggers get them: a run that is killed in between loses them.
        nonfinite: Of the guard against steps that are not finite.
        anchor: Of the lagged anchor, where there is one.
        raised_lambda: The LLDS coefficient where it is no longer the configured one.
        course: What decided the optimizer steps to come (`Optimization.course`); None before it was kept.
        adapted: What terms of the objective that adapt have come to, by term.
    """

    iteration: int
    metrics: dict[str, float]
    nonfinite: dict[str, int]
    anchor: dict[str, Any] | None
    raised_lambda: float | None = None
    course: dict[str, Any] | None = None
    adapted: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put it into a checkpoint."""
        checkpoint["search_agent"] = dict(vars(self))

    @classmethod
    def load(cls, checkpoint: Mapping[str, Any]) -> "AgentState":
        """Take it out of a checkpoint; one of an earlier version has no raised lambda."""
        return cls(**checkpoint["search_agent"])

    def restore(self, terms: Mapping[str, Loss]) -> None:
        """Put back what terms have adapted to, where they adapt still; others take their settings of now."""
        for name, term in terms.items():
            if term.adapted():
                vars(term).update(self.adapted.get(name, {}))


def leave_reference_out(checkpoint: dict[str, Any]) -> None:
    """Take the frozen reference out of a checkpoint that is about to be written."""
    weights: dict[str, Tensor] = checkpoint["state_dict"]
    checkpoint["state_dict"] = {name: value for name, value in weights.items() if not name.startswith(_REFERENCE)}


def put_reference_in(checkpoint: dict[str, Any], reference: nn.Module | None) -> None:
    """Add a reference's weights to a checkpoint that is about to be loaded, where it holds weights."""
    if reference is not None and "state_dict" in checkpoint:  # ZeRO-3 has loaded the weights already
        checkpoint["state_dict"] |= {f"{_REFERENCE}{name}": value for name, value in reference.state_dict().items()}


def check_fit(weights: Mapping[str, Tensor], module: nn.Module, path: str) -> None:
    """Refuse the weights of another model.

    Args:
        weights: Of the checkpoint, without a reference.
        module: What they are to be loaded into; parameters that are partitioned are not compared.
        path: Folder of the model, for the message.

    Raises:
        ConfigurationError: Naming the first weight that differs.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.startswith(_REFERENCE)}
    partitioned = {name for name, value in module.named_parameters() if is_partitioned(value)}
    named = [name for name in (*own, *weights) if name not in partitioned]
    for name in named:
        here, there = _shape(own.get(name)), _shape(weights.get(name))
        if here != there:
            raise ConfigurationError(
                f"Expected `ckpt_path` to hold the weights of the model {path} (`{name}`: {here}), got those of "
                f"another ({there}). Set `model.policy` and `model.lora` as they were when the checkpoint was made."
            )


def _shape(value: Tensor | None) -> str:
    return "none" if value is None else str(list(value.shape))
