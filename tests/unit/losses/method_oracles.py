"""The methods of `llds.losses` once more, token by token in plain Python, from the formulas of their papers.

As `tests.oracles`: nested lists, no tensors, no code shared with `llds`. A term returns its value on a token and the
slope of it by the token's log-probability, so that losses whose weights have no gradient are held to both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

Table = list[list[float]]
Term = Callable[[float, float, float, float], tuple[float, float]]
"""Log-prob under the policy, the old policy, the behavior policy, and the advantage: value and slope."""


@dataclass
class Data:
    """Trajectories as nested lists, one entry per token."""

    log_probs: Table
    old: Table
    behavior: Table
    entropy: Table
    index: list[list[int]]
    ids: list[list[int]]
    lengths: list[int]
    groups: list[int]
    rewards: list[float]
    is_void: list[bool]
    proxy: Table = field(default_factory=list)
    influence: Table = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    parts: Table = field(default_factory=list)
    turns: list[Table] = field(default_factory=list)
    advantages: Table = field(default_factory=list)

    def tokens(self) -> list[tuple[int, int]]:
        """Row and place of each action token."""
        return [(i, t) for i, row in enumerate(self.index) for t, turn in enumerate(row) if turn >= 0]

    def of(self, i: int) -> list[int]:
        """Places of a row's action tokens."""
        return [t for t, turn in enumerate(self.index[i]) if turn >= 0]


# Losses: value and slope of what is maximized, by token


def grpo(low: float = 0.2, high: float = 0.2, most: float = math.inf) -> Term:
    def term(new: float, old: float, _: float, a: float) -> tuple[float, float]:
        raw = math.exp(new - old)
        ratio = min(raw, most)
        clipped = min(max(ratio, 1 - low), 1 + high)
        if ratio * a <= clipped * a:
            return ratio * a, raw * a if raw < most else 0.0
        return clipped * a, 0.0

    return term


def cispo(most: float, low: float) -> Term:
    def term(new: float, old: float, _: float, a: float) -> tuple[float, float]:
        weight = max(min(math.exp(new - old), most), 1 - low)
        return weight * a * new, weight * a

    return term


def sapo(positive: float, negative: float) -> Term:
    def term(new: float, old: float, _: float, a: float) -> tuple[float, float]:
        tau = positive if a > 0 else negative
        ratio = math.exp(new - old)
        gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
        return 4 / tau * gate * a, 4 * gate * (1 - gate) * ratio * a

    return term


def wapo(epsilon: float) -> Term:
    def term(new: float, _: float, mu: float, a: float) -> tuple[float, float]:
        ratio = math.exp(new - mu)
        if a <= 0:
            return 0.0, 0.0
        return min(ratio, 1 + epsilon) * a, ratio * a if ratio < 1 + epsilon else 0.0

    return term


def dppo(kind: str, low: float, high: float, most: float) -> Term:
    def term(new: float, old: float, _: float, a: float) -> tuple[float, float]:
        p, q = math.exp(new), math.exp(old)
        if kind == "tv":
            keep = p - q <= high if a > 0 else p - q >= -low
        else:
            kl = q * (old - new) + (1 - q) * math.log((1 - q + 1e-8) / (1 - p + 1e-8))
            keep = (kl <= high or p <= q) if a > 0 else (kl <= low or p >= q)
        weight = min(math.exp(new - old), most) * a if keep else 0.0
        return weight * new, weight

    return term


def ipo(delta: float, tau: float) -> Term:
    def term(new: float, _: float, mu: float, a: float) -> tuple[float, float]:
        keep = abs(math.exp(new) - math.exp(mu)) <= delta
        ratio = math.exp(new - mu) * a if keep else 0.0
        return ratio - tau * (new - mu) ** 2, ratio - 2 * tau * (new - mu)

    return term


def policy(
    data: Data,
    term: Term,
    aggregation: str = "trajectory",
    constant: int = 0,
    weights: dict[tuple[int, int], float] | None = None,
    penalties: dict[tuple[int, int], float] | None = None,
    excluded: set[tuple[int, int]] = frozenset(),  # type: ignore[assignment]
    pulls: dict[tuple[int, int], float] | None = None,
) -> tuple[float, Table]:
    """Minus the averaged term, and its gradient."""
    counted = [[t for t in data.of(i) if (i, t) not in excluded] for i in range(len(data.index))]
    rows = sum(1 for places in counted if places)
    total = sum(len(places) for places in counted)
    loss, gradient = 0.0, [[0.0] * len(row) for row in data.index]
    for i, places in enumerate(counted):
        for t in places:
            by = {"trajectory": rows * len(places), "token": total, "constant": rows * constant}[aggregation]
            new, old = data.log_probs[i][t], data.old[i][t]
            value, slope = term(new, old, data.behavior[i][t], data.advantages[i][t])
            weight = 1.0 if weights is None else weights[i, t]
            penalty = 0.0 if penalties is None else penalties.get((i, t), 0.0)
            loss -= (weight * value - penalty * abs(new - old)) / by
            gradient[i][t] -= (weight * slope - penalty * math.copysign(1, new - old)) / by
            gap = (pulls or {}).get((i, t), -math.inf) - new
            if gap > 0:
                loss += (math.exp(gap) - gap - 1) / by
                gradient[i][t] -= (math.exp(gap) - 1) / by
    return loss, gradient


def turn_ratio(data: Data, low: float, high: float) -> tuple[float, Table]:
    """GRPO's clip of a ratio that an action's tokens share."""
    rows = sum(1 for i in range(len(data.index)) if data.of(i))
    loss, gradient = 0.0, [[0.0] * len(row) for row in data.index]
    for i in range(len(data.index)):
        places = data.of(i)
        for t in places:
            action = [s for s in places if data.index[i][s] == data.index[i][t]]
            mean = sum(data.log_probs[i][s] - data.old[i][s] for s in action) / len(action)
            value, slope = grpo(low, high)(mean, 0.0, 0.0, data.advantages[i][t])
            loss -= value / len(places) / rows
            for s in action:
                gradient[i][s] -= slope / len(action) / len(places) / rows
    return loss, gradient


def gmpo(data: Data, low: float, high: float) -> tuple[float, Table]:
    """Geometric mean of ratios that are clipped in log space."""
    rows = sum(1 for i in range(len(data.index)) if data.of(i))
    loss, gradient = 0.0, [[0.0] * len(row) for row in data.index]
    for i in range(len(data.index)):
        places = data.of(i)
        if not places:
            continue
        a = data.advantages[i][places[0]]
        kept, moves = [], []
        for t in places:
            d = data.log_probs[i][t] - data.old[i][t]
            bound = min(d, high) if a > 0 else max(d, -low)
            kept.append(bound if a else 0.0)
            moves.append(1.0 if a and bound == d else 0.0)
        ratio = math.exp(sum(kept) / len(places))
        loss -= a * ratio / rows
        for t, moved in zip(places, moves, strict=True):
            gradient[i][t] -= a * ratio * moved / len(places) / rows
    return loss, gradient


# Advantages


def _group(data: Data, i: int) -> list[int]:
    return [j for j, group in enumerate(data.groups) if group == data.groups[i]]


def _normalized(values: list[float], scale: str) -> list[float]:
    mean = sum(values) / len(values)
    if len(set(values)) == 1:
        return [0.0] * len(values)
    if scale == "none":
        return [value - mean for value in values]
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return [(value - mean) / (std + 1e-6) for value in values]


def group(data: Data, scale: str = "std") -> list[float]:
    found = []
    for i in range(len(data.rewards)):
        members = _group(data, i)
        found.append(_normalized([data.rewards[j] for j in members], scale)[members.index(i)])
    return found


def rloo(data: Data) -> list[float]:
    found = []
    for i, reward in enumerate(data.rewards):
        others = [data.rewards[j] for j in _group(data, i) if j != i]
        found.append(reward - sum(others) / len(others))
    return found


def reinforce_plus_plus(data: Data, baseline: bool, discount: float) -> Table:
    rewards = group(data, "none") if baseline else data.rewards
    returns = {}
    for i in range(len(rewards)):
        running = rewards[i]
        for t in reversed(data.of(i)):
            returns[i, t] = running
            running *= discount
    mean = sum(returns.values()) / len(returns)
    variance = sum((value - mean) ** 2 for value in returns.values()) / (len(returns) - 1)
    table = [[0.0] * len(row) for row in data.index]
    for (i, t), value in returns.items():
        table[i][t] = (value - mean) / math.sqrt(variance + 1e-8)
    return table


def signed(data: Data, right: float, wrong: float) -> list[float]:
    return [right if reward > 0 else -wrong for reward in data.rewards]


def negative_weight(data: Data, weight: float) -> list[float]:
    return [value if value >= 0 else weight * value for value in group(data)]


def conflict(data: Data, weight: float) -> Table:
    base = group(data)
    table = [[0.0] * len(row) for row in data.index]
    for i, a in enumerate(base):
        members = _group(data, i)
        start = min(data.of(j)[0] for j in members if data.of(j))
        runs = [0] * len(data.index[i])
        for direction in (1, -1):
            places = list(range(start, data.lengths[i]))[::direction]
            for step, t in enumerate(places):
                signs = set()
                for j in members:
                    theirs = list(range(start, data.lengths[j]))[::direction]
                    if step < len(theirs) and data.ids[j][theirs[step]] == data.ids[i][t]:
                        signs.add(base[j] > 0 if base[j] else None)
                if a == 0 or not {True, False} <= signs:
                    break
                runs[t] += 1
        for t in range(len(runs)):
            table[i][t] = a * (weight ** runs[t] if a > 0 else 0.0 ** runs[t])
    return table


def gigpo(data: Data, weight: float, discount: float, scale: str) -> Table:
    base = group(data, scale)
    actions = []  # row, turn, state, return
    for i, row in enumerate(data.index):
        turns = max(row) + 1
        for turn in range(turns):
            first = row.index(turn)
            begin = first
            while begin > 0 and row[begin - 1] < 0:
                begin -= 1
            state = (data.groups[i], tuple(data.ids[i][begin:first]))
            actions.append((i, turn, state, discount ** (turns - 1 - turn) * data.rewards[i]))
    table = [[base[i]] * len(row) for i, row in enumerate(data.index)]
    for i, turn, state, _ in actions:
        alike = [one for one in actions if one[2] == state]
        step = _normalized([one[3] for one in alike], scale)[[one[:2] for one in alike].index((i, turn))]
        for t in range(len(data.index[i])):
            if data.index[i][t] == turn:
                table[i][t] += weight * step
    return table


def nthr(data: Data, base: list[float], weight: float | None, scale: float) -> Table:
    table = [[base[i]] * len(row) for i, row in enumerate(data.index)]
    for i in range(len(base)):
        members = _group(data, i)
        right = [j for j in members if data.rewards[j] > 0]
        if not right or len(right) == len(members) or data.rewards[i] > 0:
            continue
        means = [sum(data.influence[j][t] for t in data.of(j)) / len(data.of(j)) for j in right if data.of(j)]
        eta = 2 * abs(0.5 - len(right) / len(members)) if weight is None else weight
        for t in data.of(i):
            if base[i] < 0 and data.influence[i][t] > scale * min(means):
                table[i][t] *= eta
    return table


def _known(values: list[float]) -> list[float]:
    """Normalized among those that are there; 0 for the others."""
    there = [value for value in values if not math.isnan(value)]
    found = iter(_normalized(there, "std") if len(there) > 1 else [0.0] * len(there))
    return [0.0 if math.isnan(value) else next(found) for value in values]


def gdpo(data: Data) -> list[float]:
    sums = [0.0] * len(data.rewards)
    for i in range(len(sums)):
        members = _group(data, i)
        for k, weight in enumerate(data.weights):
            sums[i] += weight * _known([data.parts[j][k] for j in members])[members.index(i)]
    by_token = [sums[i] for i, _ in data.tokens()]
    mean = sum(by_token) / len(by_token)
    variance = sum((value - mean) ** 2 for value in by_token) / (len(by_token) - 1)
    return [(value - mean) / math.sqrt(variance + 1e-8) for value in sums]


def _said(data: Data, i: int, turn: int, part: int | None) -> float:
    if part is not None:
        return data.turns[i][part][turn]
    pairs = [(weight, of_part[turn]) for weight, of_part in zip(data.weights, data.turns[i], strict=True)]
    there = [weight * value for weight, value in pairs if not math.isnan(value)]
    return sum(there) if there else math.nan


def mt_grpo(data: Data, discount: float, part: int | None) -> Table:
    outcome = group(data)
    table = [[0.0] * len(row) for row in data.index]
    for i, row in enumerate(data.index):
        members, turns = _group(data, i), max(row) + 1
        steps = [_known([_said(data, j, turn, part) for j in members])[members.index(i)] for turn in range(turns)]
        for t in data.of(i):
            turn = row[t]
            later = sum(discount ** (other - turn) * steps[other] for other in range(turn, turns))
            table[i][t] = later + discount ** (turns - 1 - turn) * outcome[i]
    return table


def igpo(data: Data, discount: float, part: int) -> Table:
    table = [[0.0] * len(row) for row in data.index]
    for i, row in enumerate(data.index):
        actions = [(j, turn) for j in _group(data, i) for turn in range(max(data.index[j]) + 1)]
        rewards = [data.rewards[j] if turn == max(data.index[j]) else data.turns[j][part][turn] for j, turn in actions]
        steps = dict(zip(actions, _known(rewards), strict=True))
        for t in data.of(i):
            table[i][t] = sum(discount ** (n - row[t]) * steps[i, n] for n in range(row[t], max(row) + 1))
    return table


# Selections


def covariance(data: Data) -> dict[tuple[int, int], float]:
    places = data.tokens()
    mean_a = sum(data.advantages[i][t] for i, t in places) / len(places)
    mean_l = sum(data.old[i][t] for i, t in places) / len(places)
    return {(i, t): (data.advantages[i][t] - mean_a) * (data.old[i][t] - mean_l) for i, t in places}


def top(values: dict[tuple[int, int], float], count: int) -> set[tuple[int, int]]:
    return set(sorted(values, key=lambda place: -values[place])[:count])


def ratios(data: Data) -> dict[tuple[int, int], float]:
    return {(i, t): math.exp(data.old[i][t] - data.behavior[i][t]) for i, t in data.tokens()}
