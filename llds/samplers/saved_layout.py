"""Weights as a model's files hold them, which may be otherwise than transformers computes with them.

Experts lie in files one by one, and transformers fuses those of a layer when it loads them; others rename or turn some
tensors. An engine of another library reads what files hold.
"""

from collections.abc import Iterable, Iterator

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightTransform, revert_weight_conversion

from llds.errors import ConfigurationError


def in_saved_layout(model: PreTrainedModel, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Turn a stream of a model's weights into one of what its files hold, one tensor at a time.

    Args:
        model: The transformers model.
        weights: Its weights by the names of its modules.

    Raises:
        ConfigurationError: If several of them make one tensor of the files, for which they would have to wait.
    """
    if found := _why_not_streamed(model):
        raise ConfigurationError(
            "Expected `model.policy` to be a model whose weights can be sent to `rollout.sampler` one at a time, got a "
            f"{type(model).__name__}: {found}. Use llds.samplers.TransformersSampler."
        )
    for name, value in weights:
        yield from revert_weight_conversion(model, {name: value}).items()


def _why_not_streamed(model: PreTrainedModel) -> str | None:
    """Why weights cannot be turned one at a time: several of them make one tensor of the files; None if they can."""
    names = [name for name, _ in model.named_parameters()]
    for reverse in _to_files(model):
        if len(reverse.source_patterns) > 1 and any(reverse.rename_source_key(name)[1] for name in names):
            return f"{' and '.join(reverse.source_patterns)} are one tensor in its files"
    return None


def is_fused(model: PreTrainedModel) -> bool:
    """Whether transformers computes with other tensors than the files hold."""
    names = [name for name, _ in model.named_parameters()]
    return any(reverse.rename_source_key(name)[1] for reverse in _to_files(model) for name in names)


def _to_files(model: PreTrainedModel) -> list[WeightTransform]:
    """What turns weights into those of files, beyond other names."""
    converters = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightConverter)]
    return [one.reverse_transform() for one in converters]
