"""The metrics of one iteration, put together in one place: each source hands in its part, once, and owns its keys.

=============  =====================================  =========================================================
part           handed in by                           when
=============  =====================================  =========================================================
``probe``      `LLDProbe`                             before the rollout of an iteration that is due
``rollout``    `RolloutCallback`                      after the rollout
``update``     `SearchAgentModule`                    after the updates: what the optimizer steps saw
``time``       `SearchAgentModule`                    after the updates: seconds by phase (`RolloutBatch.timings`)
``place``      `SearchAgentModule`                    after the updates: ``iteration`` and ``step``
``signals``    `IterationSignals`, a `MetricSource`   after the updates, asked by the module
``retrieval``  `RetrievalCallback`, a `MetricSource`  after the updates, asked by the module
others         every other `MetricSource`             after the updates, asked by the module, in the order of names
``collapse``   `CollapseMonitor`                      at the end of the iteration, judging all that is above
``ladder``     `CollapseMonitor`                      at the end of the iteration: what its rungs did
=============  =====================================  =========================================================

The module asks metric sources in this order before any callback hears that the iteration has ended, so that what is
logged does not depend on the order of the callbacks. Who hands in a part or a key a second time is refused.

Left out on purpose: what the keys mean (`llds.monitor.signals`), and who writes them down (`SearchAgentModule`).
"""

import math
from collections.abc import Iterator, Mapping

from llds.errors import LLDSError

PARTS = ("probe", "rollout", "update", "time", "place", "signals", "retrieval", "", "collapse", "ladder")
"""The order of the parts; the empty name stands for all others."""


def place_of(part: str) -> tuple[int, str]:
    """Sorts parts: by `PARTS`, others by name."""
    return PARTS.index(part if part in PARTS else ""), part


class IterationMetrics(Mapping[str, float]):
    """Metrics of one iteration by their full key, such as ``rollout/valid_action_rate``; read like a dictionary."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, float]] = {}

    def hand_in(self, part: str, *values: Mapping[str, float]) -> None:
        """Add a part.

        Args:
            part: Its name.
            values: Metrics by key, all of them together the part.

        Raises:
            LLDSError: If the part, or one of its keys, was handed in before.
        """
        known = {key: other for other, keys in self._parts.items() for key in keys}
        mine: dict[str, float] = {}
        for some in values:
            for key, value in some.items():
                if key in known or key in mine or part in self._parts:
                    raise LLDSError(
                        "Expected each key of an iteration's metrics, and each part, to be handed in once, got "
                        f"`{key}` of `{part}` after `{known.get(key, part)}` was there. Is a callback given twice? "
                        "Else give the metric another name."
                    )
                mine[key] = value
        self._parts[part] = mine

    def finite(self) -> "IterationMetrics":
        """Without the values that are not finite."""
        found = IterationMetrics()
        found._parts = {
            part: {key: value for key, value in values.items() if math.isfinite(value)}
            for part, values in self._parts.items()
        }
        return found

    def __getitem__(self, key: str) -> float:
        for values in self._parts.values():
            if key in values:
                return values[key]
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        for part in sorted(self._parts, key=place_of):
            yield from self._parts[part]

    def __len__(self) -> int:
        return sum(len(values) for values in self._parts.values())

    def __repr__(self) -> str:
        return f"IterationMetrics({self._parts})"
