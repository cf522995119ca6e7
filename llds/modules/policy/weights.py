"""Weights of a model as a stream of names and full tensors, also where ranks hold parts of them."""

from collections.abc import Iterator

from torch import Tensor, nn

from llds.strategies import gathered


def full_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and full tensor of each parameter, tied ones once, then of each buffer that a checkpoint holds.

    Of partitioned parameters one at a time is gathered: every rank must exhaust the iterator, and a tensor is valid
    only until the next is asked for.
    """
    for name, parameter in model.named_parameters():
        with gathered([parameter]):
            yield name, parameter.detach()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    yield from ((name, value) for name, value in model.state_dict().items() if name not in parameters)
