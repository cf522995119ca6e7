"""Questions that occur more than once, within a set and between training and test: what inflates a result unseen."""

from collections.abc import Iterable

from llds.rewards import comparable_answer
from llds.types import Prompt


def question_key(question: str) -> str:
    """Return what two spellings of the same question have in common: case, punctuation and articles do not count.

    Args:
        question: The question.
    """
    return comparable_answer(question)


def repeats(prompts: Iterable[Prompt]) -> list[tuple[Prompt, Prompt]]:
    """Return the prompts whose question an earlier one asks, each with that earlier one.

    Args:
        prompts: The prompts of one set.
    """
    first: dict[str, Prompt] = {}
    pairs = ((prompt, first.setdefault(question_key(prompt.question), prompt)) for prompt in prompts)
    return [(prompt, earlier) for prompt, earlier in pairs if earlier is not prompt]


def overlap(prompts: Iterable[Prompt], others: Iterable[Prompt]) -> list[tuple[Prompt, Prompt]]:
    """Return the prompts whose question the other set asks too, each with the first that asks it there.

    Args:
        prompts: One set, such as training.
        others: Another set, such as test.
    """
    asked: dict[str, Prompt] = {}
    for other in others:
        asked.setdefault(question_key(other.question), other)
    keys = ((prompt, question_key(prompt.question)) for prompt in prompts)
    return [(prompt, asked[key]) for prompt, key in keys if key in asked]


def have_other_answers(pair: tuple[Prompt, Prompt]) -> bool:
    """Return whether two prompts that ask the same have no gold answer in common.

    Args:
        pair: The prompts.
    """
    first, second = ({comparable_answer(answer) for answer in prompt.golden_answers} for prompt in pair)
    return not first & second
