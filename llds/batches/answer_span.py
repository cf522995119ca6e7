"""Where a trajectory's final answer stands among its tokens, for the masked-answer variant of LLDS."""

from bisect import bisect_left
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from llds.losses import AnswerMasking
from llds.types import Trajectory


def answer_spans(
    trajectories: Sequence[Trajectory],
    tokenizer: PreTrainedTokenizerBase,
    answer_tag: str,
    masking: AnswerMasking | None,
) -> list[range] | None:
    """The final answer of each trajectory, where a masking asks for it; None where there is no masking.

    Args:
        trajectories: Finished trajectories.
        tokenizer: The policy's tokenizer.
        answer_tag: Tag of the answer.
        masking: Says within how many last tokens an answer must lie.
    """
    if masking is None:
        return None
    return [answer_span(trajectory, tokenizer, answer_tag, masking.last_tokens) for trajectory in trajectories]


def answer_span(
    trajectory: Trajectory, tokenizer: PreTrainedTokenizerBase, answer_tag: str, last_tokens: int | None = None
) -> range:
    """Positions of the final answer span, its tags included, among the trajectory's token ids.

    Args:
        trajectory: A finished trajectory.
        tokenizer: The policy's tokenizer.
        answer_tag: Tag of the answer.
        last_tokens: The span must lie within so many last tokens (the authors' code: 50); None is anywhere.

    Returns:
        An empty range where there is no such answer.
    """
    if trajectory.answer is None:
        return range(0)
    ids = trajectory.turns[-1].action_ids
    lengths = range(1, min(len(ids), last_tokens or len(ids)) + 1)

    def holds_tag(length: int) -> bool:
        return f"<{answer_tag}>" in tokenizer.decode(ids[-length:], skip_special_tokens=False)

    shortest = bisect_left(lengths, True, key=holds_tag)  # of the ends of the action that hold the opening tag
    if shortest == len(lengths):
        return range(0)
    end = len(trajectory.token_ids)
    return range(end - lengths[shortest], end)
