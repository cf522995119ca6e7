"""Signals of what the agent did: rewards, tool calls, and the form of its actions."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from llds.types import Trajectory, Turn

NGRAM = 4
"""Tokens of a repeated n-gram."""
_HASH_BITS = np.uint64(44)  # leaves 20 for the number of a trajectory


def rollout_metrics(trajectories: Sequence[Trajectory], iteration: int) -> dict[str, float]:
    """Signals of what the agent did. Failed trajectories only count in those of failures and of the sampler's weights.

    Args:
        trajectories: All of the iteration.
        iteration: Iterations that were trained before, which is the version of the trainer's weights.

    Returns:
        Means over trajectories: ``reward/mean`` (0-1), ``reward/<part>/mean`` where it has parts,
        ``rollout/answered``, ``rollout/failed`` (shares), ``rollout/tool_calls`` (that were served),
        ``rollout/turns``, ``rollout/action_tokens``, ``rollout/total_tokens``, ``rollout/repeated_ngrams`` (share of
        the n-grams of a trajectory's actions that occurred in it before), ``rollout/weight_lag`` (iterations by which
        the sampler's weights were behind); means
        over actions: ``rollout/valid_action_rate``, ``rollout/action_cut`` (share that hit the limit),
        ``rollout/observation_cut``, ``rollout/tool_failures`` and ``rollout/tool_errors`` (shares of the tool calls
        that infrastructure failed, and that the tool refused because of their argument); over groups:
        ``reward/informative_groups``, ``reward/all_correct_groups``, ``rollout/first_action_match``,
        ``rollout/distinct_queries`` (share of a group's tool calls whose argument is the first of its kind).
    """
    alive = [trajectory for trajectory in trajectories if trajectory.status != "failed"]
    turns = [turn for trajectory in alive for turn in trajectory.turns]
    observed = [turn for turn in turns if turn.observation_ids]
    groups = by_group(alive)
    rewards = [[trajectory.reward for trajectory in group] for group in groups.values()]
    values = {
        "reward/mean": _mean(trajectory.reward for trajectory in alive),
        "reward/informative_groups": _mean(max(group) > min(group) for group in rewards),
        "reward/all_correct_groups": _mean(all(one.is_correct for one in group) for group in groups.values()),
        "rollout/failed": _mean(one.status == "failed" and one.failed_by != "time" for one in trajectories),
        "rollout/answered": _mean(trajectory.status == "answered" for trajectory in alive),
        "rollout/tool_calls": _mean(served_calls(trajectory) for trajectory in alive),
        "rollout/turns": _mean(len(trajectory.turns) for trajectory in alive),
        "rollout/action_tokens": _mean(sum(len(turn.action_ids) for turn in t.turns) for t in alive),
        "rollout/total_tokens": _mean(trajectory.length for trajectory in alive),
        "rollout/valid_action_rate": _mean(turn.action.kind != "invalid" for turn in turns),
        "rollout/action_cut": _mean(turn.stop_reason == "length" for turn in turns),
        "rollout/observation_cut": _mean(turn.observation_is_cut for turn in observed),
        "rollout/first_action_match": first_action_match(groups.values()),
        "rollout/distinct_queries": _distinct_queries(groups.values()),
        "rollout/repeated_ngrams": _repeated_ngrams(alive),
        "rollout/tool_failures": _failed_calls(trajectories),
        "rollout/tool_errors": _refused_calls(alive),
        "rollout/weight_lag": _mean(iteration - trajectory.policy_version for trajectory in trajectories),
    }
    parts = dict.fromkeys(name for one in alive for name in one.rewards)
    values |= {
        f"reward/{name}/mean": _mean(one.rewards[name] for one in alive if name in one.rewards) for name in parts
    }
    return {key: value for key, value in values.items() if value is not None}


def abandoned_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Signals of stragglers that were abandoned.

    Args:
        trajectories: All of the iteration.

    Returns:
        ``rollout/abandoned`` (share of the trajectories), and ``rollout/abandoned_tokens`` (mean length that they had
        got to, prompt included) where there are any: far above ``rollout/total_tokens``, that of the others, where what
        is trained on is biased towards short ones.
    """
    abandoned = [one for one in trajectories if one.failed_by == "time"]
    values = {
        "rollout/abandoned": len(abandoned) / len(trajectories),
        "rollout/abandoned_tokens": _mean(one.length for one in abandoned),
    }
    return {key: value for key, value in values.items() if value is not None}


def served_calls(trajectory: Trajectory) -> int:
    """Tool calls of a trajectory that got a result: valid searches, where the tool is a search."""
    return sum(_calls(turn) - turn.tool_errors for turn in trajectory.turns)


def _calls(turn: Turn) -> int:
    """Tool calls whose answer, or refusal, was seen."""
    return turn.action.call_count if turn.observation_ids else 0


def by_group(trajectories: Iterable[Trajectory]) -> dict[str, list[Trajectory]]:
    """Trajectories by their group, in order."""
    groups: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        groups[trajectory.group_id].append(trajectory)
    return dict(groups)


def first_action_match(groups: Iterable[Sequence[Trajectory]]) -> float | None:
    """Share of wrong trajectories whose first search returned the same documents as a right one's first search.

    Over groups with both; arXiv 2512.04220 v2, fig. 5. Searches that returned none are passed over. None without such
    groups.
    """
    matches = []
    for group in groups:
        right = {_first_documents(t) for t in group if t.is_correct} - {frozenset()}
        if right:
            matches += [_first_documents(t) in right for t in group if not t.is_correct]
    return _mean(matches)


def _first_documents(trajectory: Trajectory) -> frozenset[str]:
    return next((frozenset(turn.document_ids) for turn in trajectory.turns if turn.document_ids), frozenset())


def _distinct_queries(groups: Iterable[Sequence[Trajectory]]) -> float | None:
    """Mean over the groups with a tool call."""
    shares = []
    for group in groups:
        calls = [turn.action for trajectory in group for turn in trajectory.turns if turn.action.kind == "tool"]
        distinct = {(call.name, " ".join(call.content.lower().split())) for call in calls}
        shares += [len(distinct) / len(calls)] if calls else []
    return _mean(shares)


def _repeated_ngrams(trajectories: Sequence[Trajectory]) -> float | None:
    """An action's n-grams do not reach into the next one, but may repeat those of an earlier one."""
    actions = [(number, turn.action_ids) for number, one in enumerate(trajectories) for turn in one.turns]
    lengths = [len(ids) for _, ids in actions]
    if max(lengths, default=0) < NGRAM:
        return None
    tokens = np.fromiter(chain.from_iterable(ids for _, ids in actions), np.uint64, sum(lengths))
    starts = len(tokens) - NGRAM + 1
    action = np.repeat(np.arange(len(actions)), lengths)
    is_within = action[:starts] == action[-starts:]
    trajectory = np.repeat(np.array([number for number, _ in actions]), lengths)[:starts][is_within]
    # A polynomial of the ids modulo 2^64 stands for each n-gram; its upper bits, below the trajectory's number, are
    # sorted as plain numbers, which is far quicker than sorting rows. That two n-grams of one trajectory share them by
    # chance happens once in millions of trajectories.
    hashes = np.zeros(starts, np.uint64)
    for offset in range(NGRAM):
        hashes = (hashes + tokens[offset : starts + offset]) * np.uint64(0x9E3779B97F4A7C15)
    keys = (trajectory.astype(np.uint64) << _HASH_BITS) | (hashes[is_within] >> (np.uint64(64) - _HASH_BITS))
    keys.sort()
    is_first = np.append(True, keys[1:] != keys[:-1])
    counts = np.bincount(trajectory)
    distinct = np.bincount((keys[is_first] >> _HASH_BITS).astype(np.int64), minlength=len(counts))
    return float(np.mean(1 - distinct[counts > 0] / counts[counts > 0]))


def _refused_calls(trajectories: Sequence[Trajectory]) -> float | None:
    """Share of the tool calls that the tool refused."""
    calls = sum(_calls(turn) for trajectory in trajectories for turn in trajectory.turns)
    return sum(turn.tool_errors for one in trajectories for turn in one.turns) / calls if calls else None


def _failed_calls(trajectories: Sequence[Trajectory]) -> float | None:
    """Share of the tool calls that failed, after their retries; one that fails ends its trajectory."""
    failed = sum(trajectory.failed_by == "tool" for trajectory in trajectories)
    calls = failed + sum(served_calls(trajectory) for trajectory in trajectories)
    return failed / calls if calls else None


def _mean(values: Iterable[float]) -> float | None:
    listed = [float(value) for value in values]
    return sum(listed) / len(listed) if listed else None
