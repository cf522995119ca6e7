"""Weights of another model are refused before they are loaded."""

import pytest
import torch
from torch import nn

from llds.errors import ConfigurationError
from llds.modules.checkpoint import check_fit


class Module(nn.Module):
    """A policy and its reference."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.policy = nn.Linear(width, 2)
        self.reference = nn.Linear(width, 2)


def weights(width: int = 3) -> dict[str, torch.Tensor]:
    return {name: value for name, value in Module(width).state_dict().items() if not name.startswith("reference")}


def test_the_models_own_weights_fit_with_and_without_a_reference() -> None:
    check_fit(weights(), Module(), "here")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (weights(4), r"the model here \(`policy.weight`: \[2, 3\]\), got those of another \(\[2, 4\]\)"),
        ({"policy.weight": torch.zeros(2, 3)}, r"\(`policy.bias`: \[2\]\), got those of another \(none\)"),
        (weights() | {"policy.lora_A": torch.zeros(1)}, r"`policy.lora_A`: none.*got those of another \(\[1\]\)"),
        ({}, "`policy.weight`"),
    ],
)
def test_other_weights_are_refused_with_the_first_that_differs(given: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_fit(given, Module(), "here")
