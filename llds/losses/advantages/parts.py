r"""Advantages from parts of the reward (GDPO), and from what each action was worth (MT-GRPO, IGPO)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from llds.errors import ConfigurationError
from llds.losses.advantages.estimator import AdvantageInputs, Advantages, RewardParts
from llds.losses.advantages.group import group_advantages
from llds.losses.advantages.outcome import whiten
from llds.losses.advantages.tokens import groups_of
from llds.losses.masking import action_mask, masked

GAIN = "information_gain"
"""Name of the part that says how much likelier each action's observation made the gold answer."""
_EPS = 1e-6
_OPENING = "<answer> "


class GDPOAdvantages(Advantages):
    r"""GDPO: each part of the reward compared within the group by itself, before they are added up.

    .. math::
        A_i = \frac{S_i - \mathrm{mean}(S)}{\sqrt{\mathrm{var}(S) + 10^{-8}}}, \qquad
        S_i = \sum_k w_k \frac{r_{i,k} - \mathrm{mean}(r_k)}{\mathrm{std}(r_k) + 10^{-6}}

    arXiv 2601.05242. :math:`w` are the weights of the parts (``rollout.reward.weights``). Rewards that are added first
    make one advantage of different conduct. The last mean and variance (ddof 1) are over the action tokens of the
    iteration, as in verl. Acts on advantages, ``[B]``.

    Note:
        A part that does not apply to a trajectory gives it 0, and is compared among the others of its group.
    """

    learns_from_ties = True

    def check_reward(self, speaks: Mapping[str, float | None]) -> None:
        """Refuse one without parts."""
        if len(speaks) < 2:
            raise ConfigurationError(
                "Expected `rollout.reward` to have several parts for GDPOAdvantages (`model.advantages`), such as "
                f"llds.rewards.SumOfRewards, got {len(speaks)}: there is nothing to compare one by one."
            )

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Normalize each part, add up, whiten."""
        parts = inputs.parts(self)
        values = parts.values.to(inputs.rewards.device).double()
        total = torch.zeros_like(inputs.rewards, dtype=torch.float64)
        for weight, of_part in zip(parts.weights.tolist(), values.unbind(1), strict=True):
            for rows in groups_of(inputs.groups):
                total[rows] += weight * normalized(of_part[rows])
        whitened = whiten(total.unsqueeze(1), action_mask(inputs.action_index).double())
        return whitened[:, 0].to(inputs.rewards.dtype)


class MTGRPOAdvantages(Advantages):
    r"""MT-GRPO: an action has the advantages of what it and the actions after it were worth, and of the outcome.

    .. math::
        A_{i,t} = \sum_{l=t}^{T_i} \alpha^{l-t} A^I_{i,l} + \alpha^{T_i-t} A^O_i, \qquad
        A^I_{i,l} = \frac{r_{i,l} - \mathrm{mean}(r_l)}{\mathrm{std}(r_l) + 10^{-6}}

    arXiv 2505.11821 v2. :math:`r_{i,l}` is what the parts of the reward say of action :math:`l` (`Reward.score_turns`),
    by their weights, compared among the actions of the same number in the group; :math:`A^O` is GRPO's. Acts on
    advantages, ``[B, T]``: all tokens of an action have its value.

    Args:
        discount: :math:`\alpha`, in [0, 1].
        part: The only part of the reward whose numbers count; null: all.

    Note:
        The paper has groups whose trajectories make equally many actions. Here an action of which nothing is said, or
        that no other of its group can be compared with, has :math:`A^I` = 0.
    """

    is_by_token = True
    learns_from_ties = True

    def __init__(self, discount: float = 1.0, part: str | None = None) -> None:
        _check_discount(discount)
        self.discount, self.part = discount, part

    def check_reward(self, speaks: Mapping[str, float | None]) -> None:
        """Refuse one that says nothing of actions."""
        _check_speaks(self, self.part, speaks)

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Compare actions of one number, then the outcome."""
        worth = turn_worth(inputs.parts(self), self.part).to(inputs.rewards.device)  # [B, N]
        steps = torch.zeros_like(worth)
        for rows in groups_of(inputs.groups):
            for turn in range(worth.shape[1]):
                steps[rows, turn] = normalized(worth[rows, turn])
        outcome = group_advantages(inputs.rewards.double(), inputs.groups)
        last = inputs.action_index.amax(1)
        acts = last >= 0
        steps[acts, last[acts]] += outcome[acts]
        return _by_token(returns(steps, self.discount), inputs)


class IGPOAdvantages(Advantages):
    r"""IGPO: actions are rewarded by how much likelier their observation makes the gold answer.

    .. math::
        A_{i,t} = \sum_{l=t}^{T_i} \gamma^{l-t} \frac{r_{i,l} - \mathrm{mean}(r)}{\mathrm{std}(r) + 10^{-6}}, \qquad
        r_{i,l} = \pi(a \mid h_{i,l}) - \pi(a \mid h_{i,l-1}) \text{ for } l < T_i, \quad r_{i,T_i} = r_i

    arXiv 2510.14967, eq. 2 to 7. :math:`\pi(a \mid h)` is the geometric mean of the probabilities of the gold answer's
    tokens after the history :math:`h`, under the old policy; mean and std (ddof 1) are over all actions of the group.
    Costs a scoring of the answer after each observation. Acts on advantages, ``[B, T]``.

    Args:
        discount: :math:`\gamma`, in [0, 1].
        opening: Text that stands before an answer, in the format that the policy speaks.
        part: Whose numbers count in place of the gain, for what a reward says of actions (`Reward.score_turns`).

    Note:
        Of several gold answers the first counts. An action before the last of which nothing is said has no reward.
    """

    is_by_token = True
    learns_from_ties = True

    def __init__(self, discount: float = 1.0, opening: str = _OPENING, part: str = GAIN) -> None:
        _check_discount(discount)
        self.discount, self.part = discount, part
        self.answer_opening = opening if part == GAIN else None
        if part != GAIN and opening != _OPENING:
            raise ConfigurationError(
                f"Expected `opening` of IGPOAdvantages without `part` only, got {opening!r} and {part!r}. Take one out."
            )

    def check_reward(self, speaks: Mapping[str, float | None]) -> None:
        """Refuse one that says nothing of actions, where it is asked and not the policy."""
        if self.part != GAIN:
            _check_speaks(self, self.part, speaks)

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Compare all actions of a group with each other."""
        worth = turn_worth(inputs.parts(self), self.part).to(inputs.rewards.device)
        last = inputs.action_index.amax(1)
        turns = torch.arange(worth.shape[1], device=worth.device)
        worth[turns > last.unsqueeze(1)] = torch.nan
        worth[last >= 0, last[last >= 0]] = inputs.rewards[last >= 0].double()
        steps = torch.zeros_like(worth)
        for rows in groups_of(inputs.groups):
            steps[rows] = normalized(worth[rows].flatten()).view_as(worth[rows])
        return _by_token(returns(steps, self.discount), inputs)


def normalized(values: Tensor) -> Tensor:
    """Values less their mean, over their standard deviation (ddof 1), where they are; 0 where they are NaN or alike.

    Args:
        values: ``[n]`` float64.
    """
    there = ~values.isnan()
    found = torch.zeros_like(values)
    if int(there.sum()) > 1:
        offsets = values[there] - values[there][0]  # exactly 0 where all are equal
        found[there] = (offsets - offsets.mean()) / (offsets.std() + _EPS)
    return found


def returns(steps: Tensor, discount: float) -> Tensor:
    """Discounted sums from each action on, ``[B, N]``."""
    found = steps.clone()
    for turn in reversed(range(steps.shape[1] - 1)):
        found[:, turn] += discount * found[:, turn + 1]
    return found


def turn_worth(parts: RewardParts, part: str | None) -> Tensor:
    """What the parts of the reward say of each action, ``[B, N]`` float64; NaN where none says anything.

    Args:
        parts: Of an iteration.
        part: The only one that counts, as it is; None: all, by their weights.
    """
    values = parts.turn_values.double()
    if part is not None:
        return values[:, parts.names.index(part)].clone()
    weighed = values * parts.weights.double().view(1, -1, 1)
    return torch.where(values.isnan().all(1), torch.nan, weighed.nansum(1))


def _by_token(values: Tensor, inputs: AdvantageInputs) -> Tensor:
    """Each action's value on its tokens, ``[B, T]``."""
    index = inputs.action_index
    return masked(values.gather(1, index.clamp(min=0)), action_mask(index)).to(inputs.rewards.dtype)


def _check_speaks(estimator: Advantages, part: str | None, speaks: Mapping[str, float | None]) -> None:
    """Where all parts count, one whose weight is 0 says nothing; a part that is named counts as it is."""
    if not (any(speaks.values()) if part is None else speaks.get(part) is not None):
        speaking = ", ".join(f"{name} (weight {says:g})" for name, says in speaks.items() if says is not None)
        wanted = "a part" if part is None else repr(part)
        raise ConfigurationError(
            f"Expected {wanted} of `rollout.reward` to say what each action was worth (`score_turns`) for "
            f"{type(estimator).__name__} (`model.advantages`), got parts of which {speaking or 'none does'}."
        )


def _check_discount(discount: float) -> None:
    if not 0 <= discount <= 1:
        raise ConfigurationError(f"Expected `discount` in [0, 1], got {discount}.")
