"""torch's data types by the names that configurations and other processes give them."""

from collections.abc import Mapping

import torch

DTYPES: Mapping[str, torch.dtype] = {
    name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
}
"""``DTYPES["bfloat16"]`` is ``torch.bfloat16``."""
