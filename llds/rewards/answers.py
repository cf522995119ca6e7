"""What an answer is worth against the gold answers, as pure functions of text.

Every function is linear in the length of its input: answers are as long as the model likes.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

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
    last = text.rfind(_OPENING, 0, max(text.rfind(_CLOSING), 0))
    if last < 0:
        return None
    before = text.rfind(_CLOSING, 0, last)  # no span goes beyond a closing tag: this one began after it
    start = text.find(_OPENING, max(before, 0)) + len(_OPENING)
    return text[start : text.find(_CLOSING, start)].strip()


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
