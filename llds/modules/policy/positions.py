"""How long a trajectory a model can take: its positions, and rotary embeddings that depend on the longest row.

With LongRoPE and dynamic NTK scaling a row that is longer than what the model was first trained for changes the
frequencies of all rows beside it: the log-probabilities of a trajectory would depend on its neighbours.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig

from llds.errors import ConfigurationError

_STRETCHES = ("linear", "yarn")
"""Kinds of scaling that stretch the positions evenly, whatever the length of a batch."""
_BY_LENGTH = ("dynamic", "longrope")
"""Kinds whose frequencies go by the longest row of a batch."""


def check_positions(config: PreTrainedConfig, model: str, key: str, total_tokens: int, prompt_tokens: int = 0) -> None:
    """Refuse trajectories that are longer than the model's positions, or whose neighbours would change them.

    Args:
        config: Of the model.
        model: Its folder or name, for the message.
        key: The key of the limit, for the message.
        total_tokens: Most tokens of a trajectory.
        prompt_tokens: Most tokens of a prompt, where it must be lowered, too.

    Raises:
        ConfigurationError: Naming both numbers.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int):  # a model without positions, such as a state-space model
        return
    ropes = list(_ropes(getattr(text, "rope_parameters", None)))
    for rope in ropes:
        first = int(rope.get("original_max_position_embeddings") or positions)
        if rope["rope_type"] in _BY_LENGTH and total_tokens > first:
            raise ConfigurationError(
                f"Expected `{key}` to be at most {first}, got {total_tokens}: {model} has {rope['rope_type']} "
                f"positions, which change for all trajectories of a batch when one is longer than {first}, so that "
                "log-probabilities would depend on the neighbors. Lower it, or choose another model."
            )
    most = max([positions, *(_stretched(rope, positions) for rope in ropes)])
    if total_tokens > most:
        too = f", and `data.max_prompt_tokens` ({prompt_tokens}) below it" if prompt_tokens >= most else ""
        raise ConfigurationError(
            f"Expected `{key}` to be at most {most}, the positions that {model} was made for "
            f"(`max_position_embeddings` of its config.json), got {total_tokens}. Lower it{too}; or choose a model "
            "with a longer context."
        )


def _ropes(parameters: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Rotary parameters of a model, or of each kind of its layers."""
    if not parameters:
        return
    if "rope_type" in parameters:
        yield parameters
    else:
        yield from (one for one in parameters.values() if isinstance(one, Mapping) and "rope_type" in one)


def _stretched(rope: Mapping[str, Any], positions: int) -> int:
    """The positions that a rotary embedding reaches; as vLLM counts them."""
    if rope["rope_type"] not in _STRETCHES:
        return positions
    first = rope.get("original_max_position_embeddings") or positions
    return int(first * float(rope.get("factor") or 1.0))
