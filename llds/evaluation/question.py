"""What the evaluation keeps of one question: scores, searches, lengths.

A trajectory becomes such a record on the rank that rolled it out; only records travel between ranks and to disk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llds.rewards import contains_answer, exact_match, normalize_answer, substring_match, token_f1
from llds.types import Trajectory, TrajectoryStatus


@dataclass(frozen=True)
class QuestionResult:
    """One question and how it went.

    A trajectory that infrastructure failed scores 0: no outage can raise a score.

    Attributes:
        data_source: Name of the data set.
        prompt_id: Identifies the question within it.
        question: The question.
        golden_answers: The accepted answers.
        answer: What the policy answered; None without an answer.
        status: How the episode ended.
        failure: What failed, where the status is ``failed``.
        exact_match: 1 or 0.
        substring_match: 1 if the answer contains a gold answer, else 0.
        f1: Best word overlap with a gold answer, 0-1.
        searches: Tool calls that were served.
        actions: Actions that the policy took.
        valid_actions: Those of them that the protocol could read.
        found_gold: Whether a gold answer stands in a retrieved passage; None where nothing was retrieved.
        truncated: Whether an action was cut at its limit, or the episode at the total length.
        action_tokens: Tokens that the policy wrote.
        total_tokens: Tokens of the trajectory, prompt and observations included.
    """

    data_source: str
    prompt_id: str
    question: str
    golden_answers: tuple[str, ...]
    answer: str | None
    status: TrajectoryStatus
    failure: str
    exact_match: float
    substring_match: float
    f1: float
    searches: int
    actions: int
    valid_actions: int
    found_gold: bool | None
    truncated: bool
    action_tokens: int
    total_tokens: int

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the question in every run on the same data."""
        return self.data_source, self.prompt_id


def measure_question(trajectory: Trajectory, decode: Callable[[list[int]], Any]) -> QuestionResult:
    """Measure a finished trajectory.

    Args:
        trajectory: Its episode has ended.
        decode: Token ids to text, for the passages that were retrieved.
    """
    from llds.metrics import served_calls  # needs torch, which those who only read records do without

    prompt, turns = trajectory.prompt, trajectory.turns
    answer = None if trajectory.status == "failed" else trajectory.answer
    return QuestionResult(
        data_source=prompt.data_source,
        prompt_id=prompt.prompt_id,
        question=prompt.question,
        golden_answers=prompt.golden_answers,
        answer=answer,
        status=trajectory.status,
        failure=trajectory.failure,
        exact_match=exact_match(answer, prompt.golden_answers),
        substring_match=substring_match(answer, prompt.golden_answers),
        f1=token_f1(answer, prompt.golden_answers),
        searches=served_calls(trajectory),
        actions=len(turns),
        valid_actions=sum(turn.action.kind != "invalid" for turn in turns),
        found_gold=found_gold(trajectory, decode),
        truncated=trajectory.status == "out_of_room" or any(turn.stop_reason == "length" for turn in turns),
        action_tokens=sum(len(turn.action_ids) for turn in turns),
        total_tokens=len(trajectory.token_ids),
    )


def found_gold(trajectory: Trajectory, decode: Callable[[list[int]], Any]) -> bool | None:
    """Whether a gold answer stands, as whole words after normalization, in what was retrieved.

    Args:
        trajectory: Its episode has ended.
        decode: Token ids to text.

    Returns:
        None where no passage was returned. Gold answers such as "yes" are seldom in a passage.
    """
    parts = [str(decode(ids)) for ids in trajectory.retrieved]
    if not parts:
        return None
    golds = [gold for gold in trajectory.prompt.golden_answers if normalize_answer(gold)]  # "the" is in every passage
    return any(contains_answer(part, gold) for gold in golds for part in parts)
