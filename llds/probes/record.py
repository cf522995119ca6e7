"""What a probe found: per question, per correct action, and as a whole.

Left out on purpose: how it is measured (`llds.callbacks.probe`), files (`llds.probes.files`), plots (`llds.report`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from llds.probes.agreement import Agreement, agreement

ActionPlace = Literal["first", "later", "answer"]
"""``answer``: the action that answers; ``first``: the first action of the episode, unless it answers; ``later``: all
others."""

PLACES: tuple[ActionPlace, ...] = ("first", "later", "answer")

PHASE_III = 0.5
"""Share of questions that lose likelihood above which the paper speaks of phase III."""


@dataclass(frozen=True)
class ProbedAction:
    """A correct trajectory's action.

    Attributes:
        trajectory: Number of its trajectory within the question.
        turn: Number of its turn.
        place: Where in the episode it stands.
        tokens: Number of its tokens.
        text: Its text.
        change: Of its log-likelihood by the update, in nats.
        pulls: What each trajectory of the question does to its log-likelihood through the output head, to first order,
            in nats per unit of learning rate; below 0: pulls it down.
    """

    trajectory: int
    turn: int
    place: ActionPlace
    tokens: int
    text: str
    change: float
    pulls: list[float]

    @property
    def g(self) -> float:
        """G of theorem A.2: above 0, the update through the head lowers the action's likelihood."""
        return -math.fsum(self.pulls)


@dataclass(frozen=True)
class ProbedTrajectory:
    """A trajectory of a question.

    Attributes:
        reward: Got.
        is_correct: Whether its answer is right.
        advantage: In its group.
        tokens: Number of action tokens.
        change: Of the response's log-likelihood by the update, in nats.
        answer: Given; None without one.
        turns: Action and observation of each turn, as text.
    """

    reward: float
    is_correct: bool
    advantage: float
    tokens: int
    change: float
    answer: str | None
    turns: list[tuple[str, str]]


@dataclass(frozen=True)
class ProbedQuestion:
    """A question with right and wrong trajectories.

    Attributes:
        prompt_id: Of the prompt.
        question: As text.
        golden_answers: Of the prompt.
        grad_norm: Of the update's (first) gradient, before clipping.
        trajectories: All that were trained on.
        actions: Of the correct trajectories.
    """

    prompt_id: str
    question: str
    golden_answers: list[str]
    grad_norm: float
    trajectories: list[ProbedTrajectory]
    actions: list[ProbedAction]

    @property
    def correct(self) -> list[ProbedTrajectory]:
        """Trajectories with the right answer."""
        return [one for one in self.trajectories if one.is_correct]

    @property
    def change_per_token(self) -> float:
        """Mean change of the correct responses' log-likelihood, per token, in nats (eq. 3)."""
        return fmean(one.change / one.tokens for one in self.correct)

    def actions_at(self, place: ActionPlace) -> list[ProbedAction]:
        """The correct trajectories' actions at a place."""
        return [action for action in self.actions if action.place == place]

    def change_of(self, place: ActionPlace) -> float | None:
        """Mean change per token of the correct trajectories' actions at a place; None without any."""
        return _mean(action.change / action.tokens for action in self.actions_at(place))

    def negative_part(self, action: ProbedAction) -> float:
        """What incorrect trajectories take from an action: the negative part of G, per unit of learning rate."""
        return -math.fsum(self._pulls(action, is_correct=False))

    def positive_part(self, action: ProbedAction) -> float:
        """What correct trajectories give to an action: the positive part of G, per unit of learning rate."""
        return math.fsum(self._pulls(action, is_correct=True))

    def strongest_pull(self, action: ProbedAction) -> tuple[int, float] | None:
        """The incorrect trajectory that pulls an action down most, and by how much; None if none does."""
        pulls = [(pull, number) for number, pull in enumerate(action.pulls) if not self.trajectories[number].is_correct]
        pull, number = min(pulls, default=(0.0, -1))
        return (number, pull) if pull < 0 else None

    def _pulls(self, action: ProbedAction, *, is_correct: bool) -> Iterable[float]:
        pairs = zip(action.pulls, self.trajectories, strict=True)
        return (pull for pull, trajectory in pairs if trajectory.is_correct == is_correct)


@dataclass(frozen=True)
class Probe:
    """A whole probe.

    Attributes:
        iteration: Iterations that the policy had been trained for.
        asked: Questions that were rolled out.
        settings: Of the probe, JSON-ready.
        questions: Those with right and wrong trajectories.
        seconds: By phase.
    """

    iteration: int
    asked: int
    settings: dict[str, Any]
    questions: list[ProbedQuestion]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def changes(self) -> list[float]:
        """Change per token of each question."""
        return [question.change_per_token for question in self.questions]

    @property
    def share_negative(self) -> float | None:
        """Share of the questions whose correct responses lost likelihood, 0-1; None without questions."""
        return _mean(float(change < 0) for change in self.changes)

    @property
    def mean_change(self) -> float | None:
        """Mean change per token over the questions, in nats; None without questions."""
        return _mean(self.changes)

    def mean_change_of(self, place: ActionPlace) -> float | None:
        """The same of actions at a place."""
        return _mean(change for question in self.questions if (change := question.change_of(place)) is not None)

    def share_negative_of(self, place: ActionPlace) -> float | None:
        """Share of the correct trajectories' actions at a place that lost likelihood; None without any."""
        return _mean(float(one.change < 0) for question in self.questions for one in question.actions_at(place))

    @property
    def is_phase_iii(self) -> bool:
        """Whether more than half of the questions lost likelihood, as in the paper's phase III."""
        return self.share_negative is not None and self.share_negative > PHASE_III

    @property
    def agreement(self) -> Agreement | None:
        """How G agrees with the measured change over all correct actions, both per token; None for fewer than three."""
        actions = [action for question in self.questions for action in question.actions]
        return agreement([-one.g / one.tokens for one in actions], [one.change / one.tokens for one in actions])

    def metrics(self) -> dict[str, float]:
        """For loggers, keys below ``probe/``; undefined ones are left out."""
        found = {
            "probe/questions": float(len(self.questions)),
            "probe/share_negative": self.share_negative,
            "probe/mean_change": self.mean_change,
            **{f"probe/mean_change_{place}": self.mean_change_of(place) for place in PLACES},
            "probe/rank_correlation_with_g": self.agreement.spearman if self.agreement else None,
        }
        return {key: value for key, value in found.items() if value is not None}


def _mean(values: Iterable[float]) -> float | None:
    listed: Sequence[float] = list(values)
    return fmean(listed) if listed else None
