"""Which prompts of the present pass were trained on: none should come back before all others had their turn."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from llds.types import Prompt


class SeenPrompts:
    """Counts prompts that come back within a pass over the data.

    It looks at what arrives, not at how the loader orders it, so that a loader that loses its position is found out.
    """

    def __init__(self) -> None:
        self._drawn = 0
        self._seen: set[int] = set()

    def add(self, prompts: Iterable[Prompt], size: int) -> float:
        """Take in the prompts of an iteration.

        Args:
            prompts: At least one.
            size: Prompts of a pass.

        Returns:
            Share of them that the present pass had before, 0-1.
        """
        repeated = [self._is_repeated(prompt, size) for prompt in prompts]
        return sum(repeated) / len(repeated)

    def _is_repeated(self, prompt: Prompt, size: int) -> bool:
        # 8 bytes for each prompt keep the checkpoint small
        name = f"{prompt.data_source}/{prompt.prompt_id}".encode()
        number = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
        repeated = number in self._seen
        self._seen.add(number)
        self._drawn += 1
        if self._drawn >= size:  # the pass is over
            self._drawn = 0
            self._seen.clear()
        return repeated

    def state_dict(self) -> dict[str, Any]:
        """What the present pass had so far."""
        return {"drawn": self._drawn, "seen": sorted(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._drawn, self._seen = state["drawn"], set(state["seen"])
