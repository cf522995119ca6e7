r"""Advantages that differ within a trajectory: by what right and wrong share (GTPO), by anchor states (GiGPO)."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.advantages.estimator import AdvantageInputs, Advantages, GroupAdvantages, Reweighed
from llds.losses.advantages.group import AdvantageScale
from llds.losses.masking import check_choice


class ConflictAdvantages(Reweighed):
    r"""GTPO: tokens that right and wrong trajectories share, at the beginning and the end, are not unlearned.

    .. math::
        A'_{i,k} = A_{i,k} \cdot \begin{cases} 0 & A_i < 0 \\ w & A_i > 0 \end{cases}
        \quad\text{where } k \text{ lies in a run of conflicts}

    arXiv 2508.03772. A token is in conflict where a trajectory of its group with :math:`A > 0` and one with
    :math:`A < 0` have this token at this place, counted from the first token or from the last. The runs of conflicts
    that begin at the first token after the prompt and that end at the last one count; a token in both counts
    twice. In a search agent that is the first query and the closing tag. Acts on the advantages of another estimator;
    ``[B, T]``.

    Args:
        weight: :math:`w`, at least 1; 2 in the paper.
        of: The other estimator; null: GRPO's. Its advantages have to be ``[B]``.

    Note:
        Observations lie within the runs as the tokens that they are, and have no advantage. Left out: the paper's
        division by the number of conflicts, and its filter and bonus of entropy (`EntropyBonus`).
    """

    is_by_token = True

    def __init__(self, weight: float = 2.0, of: Advantages | None = None) -> None:
        if not 1 <= weight < math.inf:
            raise ConfigurationError(f"Expected `weight` of ConflictAdvantages >= 1, got {weight}.")
        if of is not None and of.is_by_token:
            raise ConfigurationError(
                "Expected `of` of ConflictAdvantages to give one advantage per trajectory, got "
                f"{type(of).__name__}, which gives one per token. Name another."
            )
        self.weight = weight
        super().__init__(of)

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Correct the other's."""
        base = self.of(inputs)
        if base.ndim != 1:
            raise ConfigurationError("Expected `of` of ConflictAdvantages to give one advantage per trajectory.")
        values = base.unsqueeze(1).repeat(1, inputs.input_ids.shape[1])
        factor = torch.tensor([0.0, 1.0, self.weight], dtype=values.dtype, device=values.device)
        sign = base.sign().long()
        for rows in groups_of(inputs.groups):
            for row, runs in zip(rows.tolist(), _conflicts(inputs, rows, sign[rows]), strict=True):
                values[row] *= factor[1 + sign[row]] ** runs
        return values


def _conflicts(inputs: AdvantageInputs, rows: Tensor, sign: Tensor) -> Iterator[Tensor]:
    """How many runs of conflicts each token of each row lies in, 0 to 2, ``[T]``; the prompt of a group is alike."""
    lengths = inputs.attention_mask[rows].sum(1).tolist()
    tokens = [inputs.input_ids[row, :end].tolist() for row, end in zip(rows.tolist(), lengths, strict=True)]
    signs = sign.tolist()
    forward = _runs(tokens, signs)
    backward = _runs([one[::-1] for one in tokens], signs)
    for ids, first, last in zip(tokens, forward, backward, strict=True):
        runs = inputs.input_ids.new_zeros(inputs.input_ids.shape[1])
        runs[:first] += 1
        runs[len(ids) - last : len(ids)] += 1
        yield runs


def _runs(tokens: list[list[int]], signs: list[int]) -> list[int]:
    """Length of the run of conflicts that each sequence begins with; 0 where its advantage is 0."""
    lengths = []
    for ids, sign in zip(tokens, signs, strict=True):
        length = 0
        while sign and length < len(ids) and _is_conflict(tokens, signs, length, ids[length]):
            length += 1
        lengths.append(length)
    return lengths


def _is_conflict(tokens: list[list[int]], signs: list[int], place: int, token: int) -> bool:
    found = {sign for ids, sign in zip(tokens, signs, strict=True) if place < len(ids) and ids[place] == token}
    return {1, -1} <= found


class GiGPOAdvantages(Advantages):
    r"""GiGPO: beside the outcome, each action compared with the others that were taken in the same state.

    .. math::
        A_{i,t} = A^E_i + \omega A^S_{i,t}, \qquad
        A^S_{i,t} = \frac{R_{i,t} - \mathrm{mean}(R)}{F(R)}, \qquad R_{i,t} = \gamma^{T_i - t} r_i

    arXiv 2505.10978. :math:`A^E` is the advantage of the outcome. Mean and :math:`F` (the standard
    deviation, or 1) are over the actions of the group that were taken in the same **anchor state**: at the same
    prompt, or right after the same observation. An action that is alone in its state has :math:`A^S` = 0. Acts on
    advantages, ``[B, T]``: all tokens of an action have its value.

    Args:
        weight: :math:`\omega`, not negative.
        discount: :math:`\gamma`, in (0, 1]; with 1, actions of one state differ by outcome only.
        scale: ``std`` or ``none``, for both advantages.

    Note:
        The state of a search agent is its whole history; as in the paper the last observation stands for it.
    """

    is_by_token = True

    def __init__(self, weight: float = 1.0, discount: float = 0.95, scale: AdvantageScale = "std") -> None:
        check_choice("scale", scale, AdvantageScale)
        if not (0 <= weight < math.inf and 0 < discount <= 1):
            raise ConfigurationError(
                f"Expected `weight` >= 0 and `discount` in (0, 1] of GiGPOAdvantages, got {weight} and {discount}."
            )
        self.weight, self.discount = weight, discount
        self.scale: AdvantageScale = scale

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Compare within groups, and within states."""
        outcome = GroupAdvantages(self.scale)(inputs)
        values = outcome.unsqueeze(1).repeat(1, inputs.input_ids.shape[1])
        states: dict[tuple[int, tuple[int, ...]], list[tuple[int, int, float]]] = {}
        rewards, groups = inputs.rewards.tolist(), inputs.groups.tolist()
        for row, actions in enumerate(_states(inputs)):
            for turn, state in enumerate(actions):
                reward = self.discount ** (len(actions) - 1 - turn) * rewards[row]
                states.setdefault((groups[row], state), []).append((row, turn, reward))
        for taken in states.values():
            returns = torch.tensor([reward for *_, reward in taken], dtype=torch.float64)
            step = self._normalized(returns).to(values)
            for (row, turn, _), advantage in zip(taken, step, strict=True):
                values[row][inputs.action_index[row] == turn] += self.weight * advantage
        return values

    def _normalized(self, returns: Tensor) -> Tensor:
        offsets = returns - returns[0]  # exactly 0 where all are equal
        centered = offsets - offsets.mean()
        if self.scale == "none":
            return centered
        deviation: Tensor = ((centered**2).sum() / max(len(returns) - 1, 1)).sqrt()
        return centered / (deviation + 1e-6)


def _states(inputs: AdvantageInputs) -> Iterator[list[tuple[int, ...]]]:
    """The tokens right before each action of each row: those of the prompt, or of the observation between two."""
    for ids, index in zip(inputs.input_ids.tolist(), inputs.action_index.tolist(), strict=True):
        states: list[tuple[int, ...]] = []
        start = 0
        for place, turn in enumerate(index):
            if turn == len(states):
                states.append(tuple(ids[start:place]))
            if turn >= 0:
                start = place + 1
        yield states


def groups_of(groups: Tensor) -> Iterator[Tensor]:
    """The row numbers of each group, one group after the other."""
    for number in sorted(set(groups.tolist())):
        yield (groups == number).nonzero()[:, 0]
