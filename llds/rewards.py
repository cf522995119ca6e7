"""Outcome rewards: what an answer is worth against the gold answers.

Stands after the rollout and before the advantages. Only the answer that the policy itself sampled counts
(`Trajectory.answer`); text that was retrieved is never read here, so it cannot earn anything.

Every function is linear in the length of its input: answers are as long as the model likes.
"""

import re
import string
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

from llds.types import Trajectory

_OPENING = "<answer>"
_CLOSING = "</answer>"
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_VERDICTS = (["yes"], ["no"], ["noanswer"])


def extract_answer(text: str) -> str | None:
    """Return the text of the last complete ``<answer>...</answer>`` span, None without one.

    Spans are read from left to right, as Search-R1's scorer does: a span begins at the first opening tag after the span
    before it, so that of ``<answer><answer>Oslo</answer>`` the answer is ``<answer>Oslo``, which equals no gold answer.

    Args:
        text: Text that the policy generated, and nothing else.

    Returns:
        What stands between the tags, stripped; possibly empty.
    """
    answer, opening = None, text.find(_OPENING)
    while opening >= 0:
        start = opening + len(_OPENING)
        end = text.find(_CLOSING, start)
        if end < 0:
            break
        answer, opening = text[start:end].strip(), text.find(_OPENING, end)
    return answer


def normalize_answer(text: str) -> str:
    """Lower the case and remove punctuation (ASCII), the articles a, an, the, and extra white space, as SQuAD does."""
    without_punctuation = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", without_punctuation).split())


def comparable_answer(text: str) -> str:
    """Return what an answer is compared by: normalized or, where that leaves nothing of it, as it is in lower case.

    Public data sets have gold answers of punctuation and articles alone (``---``, the band "The The"). No text is
    normalized to one of these, so that the two kinds never equal each other.

    Args:
        text: An answer, given or accepted.
    """
    return normalize_answer(text) or _plain(text)


def contains_answer(text: str, gold: str) -> bool:
    """Return whether a gold answer stands in a text as whole words, both compared as `comparable_answer` has it.

    Args:
        text: Any text.
        gold: An accepted answer.
    """
    normalized = normalize_answer(gold)
    wanted = normalized or _plain(gold)
    return bool(wanted) and f" {wanted} " in f" {normalize_answer(text) if normalized else _plain(text)} "


def exact_match(answer: str | None, golds: str | Sequence[str]) -> float:
    """Return 1.0 if the answer equals one of the gold answers, compared as `comparable_answer` has it, else 0.0.

    Args:
        answer: What the policy answered; None is worth 0.
        golds: The accepted answers.
    """
    if answer is None:
        return 0.0
    return float(comparable_answer(answer) in _comparable(golds))


def substring_match(answer: str | None, golds: str | Sequence[str]) -> float:
    """Return 1.0 if the normalized answer contains one of the normalized gold answers, else 0.0.

    Args:
        answer: What the policy answered; None is worth 0.
        golds: The accepted answers. One that normalization leaves empty must stand there as it is, as whole words.
    """
    if answer is None:
        return 0.0
    whole = normalize_answer(answer)
    pairs = ((gold, normalize_answer(gold)) for gold in _listed(golds))
    return float(any(part in whole if part else contains_answer(answer, gold) for gold, part in pairs))


def token_f1(answer: str | None, golds: str | Sequence[str]) -> float:
    """Return the best harmonic mean of word precision and recall over the gold answers, in [0, 1].

    As SQuAD's, with the rule of HotpotQA's scorer that "yes" and "no" are right or wrong and nothing between, so that
    "yes or no" earns nothing.

    Args:
        answer: What the policy answered; None is worth 0.
        golds: The accepted answers. One that normalization leaves empty is compared by its own words.
    """
    if answer is None:
        return 0.0
    words, plain_words = normalize_answer(answer).split(), _plain(answer).split()
    pairs = ((words if normalize_answer(gold) else plain_words, gold) for gold in _listed(golds))
    return max((_f1(mine, comparable_answer(gold).split()) for mine, gold in pairs), default=0.0)


def _listed(golds: str | Sequence[str]) -> Sequence[str]:
    return [golds] if isinstance(golds, str) else golds


def _comparable(golds: str | Sequence[str]) -> set[str]:
    return {comparable_answer(gold) for gold in _listed(golds)} - {""}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _f1(words: list[str], gold_words: list[str]) -> float:
    if words != gold_words and (words in _VERDICTS or gold_words in _VERDICTS):
        return 0.0
    common = (Counter(words) & Counter(gold_words)).total()
    return 2 * common / max(1, len(words) + len(gold_words))


class Reward(ABC):
    """Scores a finished trajectory. Subclass it and name the class in YAML to reward something else.

    What is rewarded is trained on; whether the trajectory is *correct* is another question, on which signals, detector,
    probes and report rest: a bonus for good form does not make a wrong answer right.

    Attributes:
        correct_from: Reward from which a trajectory counts as correct, for a class that judges better than exact match
            does; None is exact match of the answer.
    """

    correct_from: float | None = None

    @abstractmethod
    def __call__(self, trajectory: Trajectory) -> float:
        """Return the reward of a trajectory whose episode has ended."""

    def is_correct(self, trajectory: Trajectory, value: float) -> bool:
        """Return whether a trajectory is correct.

        Args:
            trajectory: Its episode has ended.
            value: Its reward by this class.
        """
        if self.correct_from is not None:
            return value >= self.correct_from
        return exact_match(trajectory.answer, trajectory.prompt.golden_answers) == 1


class ExactMatchReward(Reward):
    """1 for an answer that equals a gold answer after normalization, else 0; the reward of the paper."""

    def __call__(self, trajectory: Trajectory) -> float:
        """Return 1.0 or 0.0; a trajectory without an answer is worth 0."""
        return exact_match(trajectory.answer, trajectory.prompt.golden_answers)


class F1Reward(Reward):
    """Word overlap of the answer with the closest gold answer, between 0 and 1: a denser signal than exact match."""

    def __call__(self, trajectory: Trajectory) -> float:
        """Return the best F1; a trajectory without an answer is worth 0."""
        return token_f1(trajectory.answer, trajectory.prompt.golden_answers)
