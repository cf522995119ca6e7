"""The highest use of memory since one last looked."""

import resource
import sys
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MIB = 2**20
_RUSAGE_BYTES = 1 if sys.platform == "darwin" else 1024
"""Of a unit of ``ru_maxrss``, which macOS gives in bytes and other systems in KiB."""


class PeakMemory:
    """Looks at a GPU's allocator or, on a CPU, at the resident memory of this process.

    Where the system cannot forget a peak (it is not Linux, or forbids it), the highest of the whole run is given.

    Args:
        device: Where the policy computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def since_last(self) -> float:
        """MiB; and start anew."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device) / _MIB
            torch.cuda.reset_peak_memory_stats(self._device)
            return peak
        try:
            lines = _STATUS.read_text().splitlines()
            peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
            _RESET.write_text("5")  # forgets the peak
        except (OSError, StopIteration):
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_BYTES / _MIB
        return peak
