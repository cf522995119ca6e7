"""What a model does at random or for its balance while it trains: off, since a policy must be the same in both modes.

With dropout the policy would differ from the old policy before it has learned anything. It stands in modules
(`nn.Dropout`), in numbers that modules hand to functions (attention, StarCoder2's residuals), and in numbers that they
look up in the configuration. Experts whose router jitters (Mixtral, PhiMoE) stay in evaluation mode: PhiMoE's router
draws experts in training mode, and reads the jitter in both modes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

_NOISE = ("drop", "jitter", "noise")
_JITTER = "jitter"
_BALANCE = "output_router_logits"
"""Router logits are for a loss of their own, which no policy has, and `generate` fails on them."""


class Silence:
    """Noise and balance of a model switched off, and what its configuration said before.

    Args:
        model: Changed in place.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        configs = {id(config): config for config in (model.config, model.config.get_text_config())}
        self._before = [(config, _noise_of(config)) for config in configs.values()]
        self._switch_off()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            noise = _noise_of(module)
            if any(_JITTER in name for name in noise):
                _hold_in_evaluation(module)
            for name in noise:
                if _JITTER not in name:
                    setattr(module, name, 0.0)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """The configuration as it was, for what is written of it."""
        for config, values in self._before:
            for name, value in values.items():
                setattr(config, name, value)
        try:
            yield
        finally:
            self._switch_off()

    def _switch_off(self) -> None:
        for config, values in self._before:
            for name, value in values.items():
                setattr(config, name, type(value)(0))


def _hold_in_evaluation(module: nn.Module) -> None:
    """Put a module and all below it into evaluation mode, and let it stay there."""
    module.eval()
    module.train = lambda mode=True: module  # type: ignore[method-assign]


def _noise_of(part: PreTrainedConfig | nn.Module) -> dict[str, float]:
    """What makes a configuration or a module noisy, by name: numbers above 0, and router logits that are asked for."""
    return {
        name: value
        for name, value in vars(part).items()
        if (isinstance(value, float) and value > 0 and any(word in name for word in _NOISE))
        or (name == _BALANCE and value is True)
    }
