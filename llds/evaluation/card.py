"""The evaluation card: the conditions under which numbers were measured, and what differs between two of them.

A card is nested, JSON-ready values. What makes one knows a Trainer (`llds.callbacks.evaluation.card`); here cards are
only compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from llds.evaluation.settings import flatten

DifferenceKind = Literal["condition", "policy", "seed", "environment"]
"""Whether a difference makes two results incomparable, is what one wants to compare, is chance, or matters little."""

_NOT_SET = "(not set)"
_KINDS: dict[str, DifferenceKind] = {"policy": "policy", "environment": "environment"}
_SEEDS = ("rollout.seed", "rollout.seed_everything")
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
    """What differs between cards: conditions first, then the policies, seeds, and the environment.

    Args:
        cards: At least two.
    """
    flat = [flatten(card) for card in cards]
    keys = dict.fromkeys(key for card in flat for key in card)
    found = []
    for key in keys:
        values = tuple(card.get(key, _NOT_SET) for card in flat)
        root = key.split(".")[0]
        if root not in _RECORDED_ONLY and any(value != values[0] for value in values):
            found.append(Difference(key, values, "seed" if key in _SEEDS else _KINDS.get(root, "condition")))
    return sorted(found, key=lambda one: get_args(DifferenceKind).index(one.kind))
