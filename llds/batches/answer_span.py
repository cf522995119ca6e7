"""Where a trajectory's final answer stands among its tokens, for the masked-answer variant of LLDS."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from llds.losses import AnswerMasking
from llds.types import Trajectory


def answer_spans(
    trajectories: Sequence[Trajectory],
    tokenizer: PreTrainedTokenizerBase,
    answer_mark: Callable[[str], str],
    masking: AnswerMasking | None,
) -> list[range] | None:
    """The final answer of each trajectory, where a masking asks for it; None where there is no masking.

    Args:
        trajectories: Finished trajectories.
        tokenizer: The policy's tokenizer.
        answer_mark: The text that opens the answer within an action, which is given decoded; empty where all of it is
            the answer (the protocol's).
        masking: Says within how many last tokens an answer must lie.
    """
    if masking is None:
        return None
    return [answer_span(trajectory, tokenizer, answer_mark, masking.last_tokens) for trajectory in trajectories]


def answer_span(
    trajectory: Trajectory,
    tokenizer: PreTrainedTokenizerBase,
    answer_mark: Callable[[str], str],
    last_tokens: int | None = None,
) -> range:
    """Positions of the final answer span, its marks included, among the trajectory's token ids.

    Args:
        trajectory: A finished trajectory.
        tokenizer: The policy's tokenizer.
        answer_mark: The text that opens the answer within an action, which is given decoded; empty where all of it is
            the answer (the protocol's).
        last_tokens: The span must lie within so many last tokens (the authors' code: 50); None is anywhere.

    Returns:
        An empty range where there is no such answer.
    """
    if trajectory.answer is None:
        return range(0)
    ids = trajectory.turns[-1].action_ids
    lengths = range(1, min(len(ids), last_tokens or len(ids)) + 1)
    mark = answer_mark(str(tokenizer.decode(ids, skip_special_tokens=False)))

    def holds_answer(length: int) -> bool:
        held = str(tokenizer.decode(ids[-length:], skip_special_tokens=False))
        return mark in held if mark else length == len(ids)

    shortest = bisect_left(lengths, True, key=holds_answer)  # of the ends of the action that hold the whole answer
    if shortest == len(lengths):
        return range(0)
    end = len(trajectory.token_ids)
    return range(end - lengths[shortest], end)
