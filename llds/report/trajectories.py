"""Trajectories for reading: each sampled token colored by how much likelihood the updates gave it or took from it.

Questions, so that right and wrong trajectories stand beside each other. As many as there is room for: the page has a
size to keep. Left out on purpose: what is written to disk (`llds.callbacks.trajectory_log.callback`).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llds.report.run import Run, read_trajectories
from llds.rewards import exact_match

PER_ITERATION = 16
"""Most trajectories of an iteration on the page."""
ITERATIONS = 8
"""Most iterations of a run on the page: the first, the last, and those of alarms among them."""
LEVELS = 7
"""Depths of color on each side."""
FULL_COLOR = 1.0
"""Nats of change at which a token has its full color."""
_TOKEN_BYTES = 75
"""Of a token on the page, besides its text."""


@dataclass(frozen=True)
class Token:
    """A piece of an action.

    Attributes:
        text: As the tokenizer decodes it.
        change: Log-likelihood after the updates minus before, in nats; None where it was not measured.
        log_prob: Of the sampler, in nats.
        advantage: Of its trajectory; None where it was not trained on.
    """

    text: str
    change: float | None
    log_prob: float
    advantage: float | None = None

    @property
    def level(self) -> int:
        """Depth of color: below 0 likelihood was lost, above 0 gained. By the root, so that small changes are seen."""
        if self.change is None:
            return 0
        depth = math.ceil(LEVELS * math.sqrt(min(1.0, abs(self.change) / FULL_COLOR)) - 0.5)
        return depth if self.change > 0 else -depth

    @property
    def is_displaced(self) -> bool:
        """Whether it visibly lost likelihood although its trajectory's advantage is positive."""
        return self.level < 0 and self.advantage is not None and self.advantage > 0

    @property
    def style(self) -> str:
        """Names of its CSS classes; empty for none."""
        level = self.level
        color = "" if level == 0 else f"g{level}" if level > 0 else f"l{-level}"
        return f"{color} d" if self.is_displaced else color

    @property
    def title(self) -> str:
        """What hovering shows."""
        moved = "" if self.change is None else f", changed by {self.change:+.3f}"
        return f"log-prob {self.log_prob:.3f}{moved}"


@dataclass(frozen=True)
class ReportedTurn:
    """An action and what it got.

    Attributes:
        tokens: The action.
        observation: As text; empty without one.
        documents: Ids of the passages in it.
        understood: The action as the protocol read it, where its text does not show that by itself: calls with named
            arguments, or why it is not valid.
    """

    tokens: list[Token]
    observation: str
    documents: list[str]
    understood: str = ""

    @property
    def change(self) -> float | None:
        """Change of the action's log-likelihood, in nats; None where it was not measured."""
        changes = [token.change for token in self.tokens if token.change is not None]
        return math.fsum(changes) if changes else None


@dataclass(frozen=True)
class ReportedTrajectory:
    """A trajectory.

    Attributes:
        question: Of its prompt.
        golds: Gold answers.
        answer: Given; None without one.
        reward: Got.
        is_correct: Whether the answer is right.
        advantage: In its group; None where it was not trained on.
        status: How the episode ended.
        group: Id of its group.
        turns: In order.
        count: Trajectories of the group that are equal to it, itself included.
    """

    question: str
    golds: list[str]
    answer: str | None
    reward: float
    is_correct: bool
    advantage: float | None
    status: str
    group: str
    turns: list[ReportedTurn]
    count: int = 1

    @property
    def change(self) -> float | None:
        """Change of the whole response's log-likelihood, in nats."""
        changes = [turn.change for turn in self.turns if turn.change is not None]
        return math.fsum(changes) if changes else None

    @property
    def is_displaced(self) -> bool:
        """Whether the response lost likelihood although its advantage is positive."""
        return self.change is not None and self.change < 0 and self.advantage is not None and self.advantage > 0

    @property
    def size(self) -> int:
        """Bytes on the page, roughly."""
        texts = [
            text
            for turn in self.turns
            for text in (turn.observation, turn.understood, *(token.text for token in turn.tokens))
        ]
        return sum(len(text.encode()) for text in texts) + _TOKEN_BYTES * len(texts)


@dataclass(frozen=True)
class ReportedQuestion:
    """The trajectories of a question in an iteration.

    Attributes:
        text: The question.
        golds: Gold answers.
        trajectories: Right ones first.
    """

    text: str
    golds: list[str]
    trajectories: list[ReportedTrajectory]

    @property
    def count(self) -> int:
        """Trajectories, equal ones counted each."""
        return sum(one.count for one in self.trajectories)

    @property
    def right(self) -> int:
        """Of these, those with the right answer."""
        return sum(one.count for one in self.trajectories if one.is_correct)


def chosen_iterations(count: int, wanted: Sequence[int]) -> list[int]:
    """Indices of up to `ITERATIONS` files: the wanted ones, the first, the last, then evenly between.

    Args:
        count: Number of files.
        wanted: Indices to have in any case, as far as there is room.
    """
    even = [round(number * (count - 1) / (ITERATIONS - 1)) for number in range(ITERATIONS)]
    order = dict.fromkeys([0, count - 1, *(index for index in wanted if 0 <= index < count), *even])
    return sorted(list(order)[:ITERATIONS]) if count else []


def reported_trajectories(run: Run, wanted: Sequence[int], room: int) -> dict[str, list[ReportedQuestion]]:
    """Some trajectories of some iterations, by question: the questions that moved most first.

    Args:
        run: The run.
        wanted: Iterations to show in any case.
        room: Bytes on the page; each iteration gets its share.

    Returns:
        Questions by the name of their iteration.
    """
    numbers = [int(path.name.split("-")[1].split(".")[0]) for path in run.trajectories]
    chosen = chosen_iterations(len(numbers), [numbers.index(one) for one in wanted if one in numbers])
    shown = {}
    for position, index in enumerate(chosen):
        questions = reported_questions(read_trajectories(run.trajectories[index]))
        fitting = _fitting(questions, room // (len(chosen) - position))
        room -= sum(one.size for question in fitting for one in question.trajectories)
        shown[f"iteration {numbers[index]}"] = fitting
    return shown


def reported_questions(records: Sequence[dict[str, Any]]) -> list[ReportedQuestion]:
    """The records of a trajectory file by question: the measured first, of these the ones that moved most."""
    groups: dict[str, list[ReportedTrajectory]] = {}
    for trajectory in map(_reported, records):
        groups.setdefault(trajectory.group, []).append(trajectory)
    ordered = sorted(groups.values(), key=lambda group: -max(abs(one.change or 0.0) for one in group))
    return [
        ReportedQuestion(group[0].question, group[0].golds, sorted(_merged(group), key=lambda one: -one.reward))
        for group in ordered
    ]


def _merged(group: Sequence[ReportedTrajectory]) -> list[ReportedTrajectory]:
    """Equal trajectories as one: a policy that is sure of itself samples the same again and again."""
    equal: dict[tuple[str, ...], list[ReportedTrajectory]] = {}
    for one in group:
        texts = [text for turn in one.turns for text in (turn.observation, *(token.text for token in turn.tokens))]
        equal.setdefault((str(one.reward), one.status, *texts), []).append(one)
    return [replace(same[0], count=len(same)) for same in equal.values()]


def _fitting(questions: Sequence[ReportedQuestion], room: int) -> list[ReportedQuestion]:
    """As many trajectories as there is room for; a question that does not fit whole is cut short."""
    fitting, count = [], 0
    for question in questions:
        kept = []
        for trajectory in question.trajectories:
            room -= trajectory.size
            if room >= 0 and count < PER_ITERATION:
                kept.append(trajectory)
                count += trajectory.count
        if kept:
            fitting.append(ReportedQuestion(question.text, question.golds, kept))
    return fitting


def _reported(record: dict[str, Any]) -> ReportedTrajectory:
    advantage = record.get("advantage")
    return ReportedTrajectory(
        question=record["question"],
        golds=record["golden_answers"],
        answer=record["answer"],
        reward=record["reward"],
        is_correct=_is_correct(record),
        advantage=advantage,
        status=record["status"].replace("_", " "),
        group=record["group_id"],
        turns=[_turn(turn, advantage) for turn in record["turns"]],
    )


def _is_correct(record: dict[str, Any]) -> bool:
    """As the log has it; logs of versions that did not write it down have the answer and the gold answers."""
    if "is_correct" in record:
        return bool(record["is_correct"])
    return exact_match(record["answer"], record["golden_answers"]) == 1


def _turn(turn: dict[str, Any], advantage: float | None) -> ReportedTurn:
    texts = turn.get("action_tokens") or [turn["action"]]
    changes = turn.get("log_prob_changes") or [None] * len(texts)
    log_probs = turn["behavior_log_probs"] if len(texts) == len(turn["behavior_log_probs"]) else [0.0] * len(texts)
    tokens = [Token(*one, advantage) for one in zip(texts, changes, log_probs, strict=True)]
    return ReportedTurn(tokens, turn["observation"], turn["document_ids"], _understood(turn))


def _understood(turn: dict[str, Any]) -> str:
    if turn.get("kind") == "invalid":
        return f"not valid: {turn['reason']}" if turn.get("reason") else "not valid"
    return "; ".join(
        f"{call['name']}({', '.join(f'{key}={json.dumps(value)}' for key, value in call['arguments'].items())})"
        for call in turn.get("calls", [])
    )
