"""Rewards of how the policy went about it: form, searches, length. Parts of a sum, beside one of the answer."""

from itertools import accumulate, pairwise

from llds.errors import ConfigurationError
from llds.rewards.answers import exact_match
from llds.rewards.base import Reward, Value
from llds.types import Trajectory


def has_good_form(trajectory: Trajectory) -> bool:
    """Whether every action could be read, and the last is an answer."""
    return trajectory.answer is not None and all(turn.action.kind != "invalid" for turn in trajectory.turns)


class FormReward(Reward):
    """1 where every action could be read and the last is an answer, else 0; of an action, 1 where it could be read."""

    def __call__(self, trajectory: Trajectory) -> float:
        """Return 1.0 or 0.0."""
        return float(has_good_form(trajectory))

    def score_turns(self, trajectory: Trajectory) -> list[Value]:
        """Return 1.0 or 0.0 for each action."""
        return [float(turn.action.kind != "invalid") for turn in trajectory.turns]


class SearchR1FormReward(Reward):
    """Answer and form in one, as Search-R1 v0.3 has it (``qa_em_format.py``); correct is what matches exactly.

    Right in good form: 1; right in bad form: 1 - `form`; wrong in good form: `form`, and `surfaced` more where a gold
    passage was found; wrong in bad form: `answered` where there is an answer, else 0.

    Args:
        form: Of good form.
        answered: Of an answer alone.
        surfaced: Of a gold passage among those found.
        gold_column: Column of the data file with the ids of gold passages; None knows none.
    """

    def __init__(
        self, form: float = 0.2, answered: float = 0.1, surfaced: float = 0.1, gold_column: str | None = None
    ) -> None:
        self.form, self.answered, self.surfaced, self.gold_column = form, answered, surfaced, gold_column

    def __call__(self, trajectory: Trajectory) -> float:
        """Return the value of the table."""
        is_right = exact_match(trajectory.answer, trajectory.prompt.golden_answers) == 1
        is_good = has_good_form(trajectory)
        if is_right:
            return 1.0 if is_good else 1.0 - self.form
        if not is_good:
            return self.answered if trajectory.answer is not None else 0.0
        found = surfaced(trajectory, self.gold_column) if self.gold_column else None
        return self.form + (self.surfaced if found else 0.0)


class GoldPassageReward(Reward):
    """1 where one of the gold passages was found, else 0; does not apply to a row that names none.

    Of a tool call, 1 where it found one that nothing before it had found, else 0.

    Args:
        column: Column of the data file with the ids of gold passages, a list or one.
    """

    def __init__(self, column: str = "gold_passages") -> None:
        self.column = column

    def __call__(self, trajectory: Trajectory) -> Value:
        """Return 1.0, 0.0 or None."""
        found = surfaced(trajectory, self.column)
        return None if found is None else float(found)

    def score_turns(self, trajectory: Trajectory) -> list[Value] | None:
        """Return 1.0 or 0.0 for each action that calls a tool."""
        missing = gold_ids(trajectory, self.column)
        if not missing:
            return None
        missing -= set(trajectory.prompt.document_ids)
        values: list[Value] = []
        for turn in trajectory.turns:
            found = missing & set(turn.document_ids)
            values.append(float(bool(found)) if turn.action.kind == "tool" else None)
            missing -= found
        return values


def gold_ids(trajectory: Trajectory, column: str) -> set[str]:
    """The ids of gold passages that the row names."""
    value = trajectory.prompt.row.get(column)
    return {str(one) for one in value} if isinstance(value, list | tuple) else {str(value)} if value else set()


def surfaced(trajectory: Trajectory, column: str) -> bool | None:
    """Whether a gold passage was found; None where the row names none."""
    golds = gold_ids(trajectory, column)
    found = {*trajectory.prompt.document_ids, *(one for turn in trajectory.turns for one in turn.document_ids)}
    return bool(golds & found) if golds else None


class CallCost(Reward):
    """What tool calls cost: 0 for the first ones, then less for each. Of an action, what its own calls cost.

    Args:
        each: Of a call, above 0; it is taken away.
        free: Calls that cost nothing.

    Raises:
        ConfigurationError: A number is negative.
    """

    def __init__(self, each: float = 0.05, free: int = 0) -> None:
        if each < 0 or free < 0:
            raise ConfigurationError(f"Expected `each` and `free` of the cost of calls >= 0, got {each} and {free}.")
        self.each, self.free = each, free

    def __call__(self, trajectory: Trajectory) -> float:
        """Return the cost, negative or 0."""
        calls = sum(len(turn.action.tool_calls) for turn in trajectory.turns)
        return self._cost(calls)

    def score_turns(self, trajectory: Trajectory) -> list[Value]:
        """Return the cost of each action; they add up to that of the trajectory."""
        calls = list(accumulate((len(turn.action.tool_calls) for turn in trajectory.turns), initial=0))
        return [self._cost(after) - self._cost(before) for before, after in pairwise(calls)]

    def _cost(self, calls: int) -> float:
        return -self.each * max(0, calls - self.free)


class OverlongPenalty(Reward):
    """0 up to a length, then falling to -1 (DAPO's soft punishment, arXiv 2503.14476 v2, equation 13).

    Args:
        max_tokens: Sampled tokens of a trajectory at which it is -1.
        buffer_tokens: Tokens before that over which it falls.

    Raises:
        ConfigurationError: The buffer is none, or longer than the limit.
    """

    def __init__(self, max_tokens: int, buffer_tokens: int) -> None:
        if not 0 < buffer_tokens <= max_tokens:
            raise ConfigurationError(
                f"Expected 0 < `buffer_tokens` <= `max_tokens` of the penalty of length, got {buffer_tokens} and "
                f"{max_tokens}. Change one of them."
            )
        self.max_tokens, self.buffer_tokens = max_tokens, buffer_tokens

    def __call__(self, trajectory: Trajectory) -> float:
        """Return a number between -1 and 0."""
        length = sum(len(turn.action_ids) for turn in trajectory.turns)
        return -min(1.0, max(0.0, (length - self.max_tokens + self.buffer_tokens) / self.buffer_tokens))
