"""tmp"""
from torch import Tensor
def action_mask(action_index: Tensor) -> Tensor:
    return action_index >= 0
