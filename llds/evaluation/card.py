"""The evaluation card: the conditions under which numbers were measured, and what differs between two of them.

A card is nested, JSON-ready values. What makes one knows a Trainer (`llds.callbacks.evaluation.card`); here cards are
only compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

DifferenceKind = Literal["condition", "policy", "environment"]
"""Whether a difference makes two results incomparable, is what one wants to compare, or should not matter but may."""

_NOT_SET = "(not set)"
_KINDS: dict[str, DifferenceKind] = {"policy": "policy", "environment": "environment"}
_RECORDED_ONLY = ("created",)


@dataclass(frozen=True)
class Difference:
    """A value that is not the same in all cards.

    Attributes:
        key: Dotted path in the card.
        values: One per card.
        kind: What the difference means.
    """

    key: str
    values: tuple[Any, ...]
    kind: DifferenceKind


def card_differences(cards: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """What differs between cards: conditions first, then the policies, then the environment.

    Args:
        cards: At least two.
    """
    flat = [dict(_flatten(card)) for card in cards]
    keys = dict.fromkeys(key for card in flat for key in card)
    found = []
    for key in keys:
        values = tuple(card.get(key, _NOT_SET) for card in flat)
        root = key.split(".")[0]
        if root not in _RECORDED_ONLY and any(value != values[0] for value in values):
            found.append(Difference(key, values, _KINDS.get(root, "condition")))
    order = ("condition", "policy", "environment")
    return sorted(found, key=lambda one: order.index(one.kind))


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [item for key, one in value.items() for item in _flatten(one, f"{prefix}.{key}".lstrip("."))]
    if isinstance(value, (list, tuple)) and any(isinstance(one, (Mapping, list, tuple)) for one in value):
        return [item for number, one in enumerate(value) for item in _flatten(one, f"{prefix}.{number}")]
    return [(prefix, value)]
