"""Rewards of trajectories, from classes that may be anybody's: deadlines, retries, and what becomes of failures."""

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from llds.errors import ConfigurationError, RewardFailure, said_by
from llds.files.rows import shorten
from llds.rewards import Reward, SumOfRewards
from llds.types import WHOLE, Trajectory

_ENOUGH = 256
"""Trajectories of which one should be correct, if what is rewarded has to do with what is correct."""


@dataclass(frozen=True)
class Correctness:
    """When a trajectory is correct, where neither exact match nor the class of the reward is to say so."""

    at_least: float = 1.0
    """Reward from which a trajectory is correct."""
    part: str | None = None
    """Name of the part of the reward that is meant, where there are several; null is their sum."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.at_least):
            raise ConfigurationError(f"Expected `rollout.correct.at_least` to be a number, got {self.at_least}.")


@dataclass(frozen=True)
class RewardCalls:
    """How long and how often an ``async`` reward is tried."""

    deadline_s: float = 60.0
    """Longest time of one try, in seconds."""
    max_retries: int = 2
    """Tries after the first that failed."""
    backoff_s: float = 1.0
    """Wait before the first retry, in seconds; doubles with each."""
    at_once: int = 32
    """Most trajectories that are scored at the same time."""

    def __post_init__(self) -> None:
        if self.deadline_s <= 0 or self.max_retries < 0 or self.backoff_s < 0 or self.at_once < 1:
            raise ConfigurationError(
                "Expected `rollout.reward_calls` to have deadline_s > 0, max_retries >= 0, backoff_s >= 0 and "
                f"at_once >= 1, got {self}."
            )


class Scoring:
    """Scores trajectories.

    Args:
        reward: The reward, or a sum of several.
        correct: When a trajectory is correct; None asks the class of the reward.
        calls: Of ``async`` rewards.

    Raises:
        ConfigurationError: If `correct` names a part that there is not.
    """

    def __init__(self, reward: Reward, correct: Correctness | None = None, calls: RewardCalls = RewardCalls()) -> None:
        self.reward = reward
        self.correct = correct
        self.calls = calls
        self._parts = reward.parts if isinstance(reward, SumOfRewards) else {WHOLE: reward}
        if correct is not None and correct.part is not None and correct.part not in reward.part_weights:
            known = ", ".join(reward.part_weights) or "it has none"
            raise ConfigurationError(
                f"Expected `rollout.correct.part` to be a part of `rollout.reward` ({known}), "
                f"got {correct.part!r}. Correct it."
            )
        self._seen, self._is_quiet = 0, type(reward).__module__.startswith("llds.") or correct is not None

    def score(self, trajectories: Sequence[Trajectory], run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """Give trajectories their rewards and say which are correct; those that failed get 0 and are not correct.

        A question that was asked on the command line has neither gold answers nor a row, so there is nothing to reward.

        Args:
            trajectories: Their episodes have ended; filled in place.
            run: Runs a coroutine on an event loop to its end.

        Raises:
            ConfigurationError: If a class raises, or gives what is no finite number; names it and the trajectory.
        """
        for trajectory in trajectories:
            trajectory.reward, trajectory.rewards, trajectory.is_correct = 0.0, {}, False
        alive = [one for one in trajectories if one.status != "failed" and one.prompt.golden_answers]
        values = {name: self._values(part, alive, run) for name, part in self._parts.items()}
        for number, trajectory in enumerate(alive):
            self._fill(trajectory, {name: found[number] for name, found in values.items()})
        self._tell(alive)

    def _values(
        self, part: Reward, trajectories: Sequence[Trajectory], run: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> list[Any]:
        """What a reward says of each; a `RewardFailure` in the place of what it could not say."""
        if not trajectories:
            return []
        together = _guarded(part, trajectories[0], lambda: part.score_all(trajectories))
        if together is None:
            found = [_guarded(part, one, lambda one=one: part(one)) for one in trajectories]  # type: ignore[misc]
            if any(inspect.isawaitable(value) for value in found):
                return list(run(self._await_all(part, trajectories, found)))
            return found
        if inspect.isawaitable(together):
            together = run(self._tried(part, trajectories[0], together, lambda: part.score_all(trajectories)))
        return list(together) if not isinstance(together, RewardFailure) else [together] * len(trajectories)

    async def _await_all(self, part: Reward, trajectories: Sequence[Trajectory], found: Sequence[Any]) -> list[Any]:
        gate = asyncio.Semaphore(self.calls.at_once)

        async def one(trajectory: Trajectory, value: Any) -> Any:
            if not inspect.isawaitable(value):
                return value
            async with gate:
                return await self._tried(part, trajectory, value, lambda: part(trajectory))

        return list(await asyncio.gather(*map(one, trajectories, found)))

    async def _tried(
        self, part: Reward, trajectory: Trajectory, first: Awaitable[Any], again: Callable[[], Any]
    ) -> Any:
        """The value of a reward, or the failure of the last try."""
        last: Any = None
        for attempt in range(self.calls.max_retries + 1):
            if attempt:
                await asyncio.sleep(self.calls.backoff_s * 2 ** (attempt - 1))
            try:
                async with asyncio.timeout(self.calls.deadline_s):
                    return await (first if attempt == 0 else again())
            except (RewardFailure, OSError) as error:
                last = error if str(error) else RewardFailure(f"no reward within {self.calls.deadline_s:g} s")
            except Exception as error:  # whatever a stranger's code does
                raise _wrong(part, trajectory, error) from error
        return RewardFailure(f"{part} failed {self.calls.max_retries + 1} times, last: {last}")

    def _fill(self, trajectory: Trajectory, values: dict[str, Any]) -> None:
        failures = [value for value in values.values() if isinstance(value, RewardFailure)]
        if failures:
            trajectory.status, trajectory.failed_by, trajectory.failure = "failed", "reward", str(failures[0])
            return
        has_parts = isinstance(self.reward, SumOfRewards)
        numbers = {
            name: _number(self._parts[name], trajectory, value)
            for name, value in values.items()
            if value is not None or not has_parts
        }
        if has_parts and not numbers:
            raise ConfigurationError(
                f"Expected a part of `rollout.reward` that applies to trajectory {trajectory.index}, "
                f"{_question(trajectory)}, got none. Add one that always does."
            )
        trajectory.rewards = numbers if has_parts else {}
        trajectory.reward = float(self.reward(trajectory)) if has_parts else numbers[WHOLE]  # type: ignore[arg-type]
        trajectory.is_correct = self._is_correct(trajectory)
        self._fill_turns(trajectory)

    def _fill_turns(self, trajectory: Trajectory) -> None:
        for turn in trajectory.turns:
            turn.rewards = {}
        for name, part in self._parts.items():
            for turn, value in zip(trajectory.turns, _turn_values(part, trajectory), strict=True):
                if value is not None:
                    turn.rewards[name] = _number(part, trajectory, value)

    def _is_correct(self, trajectory: Trajectory) -> bool:
        if self.correct is None:
            return bool(
                _guarded(self.reward, trajectory, lambda: self.reward.is_correct(trajectory, trajectory.reward))
            )
        part = self.correct.part
        value = trajectory.reward if part is None else trajectory.rewards.get(part)
        return value is not None and value >= self.correct.at_least

    def _tell(self, trajectories: Sequence[Trajectory]) -> None:
        """Warn once where a class of one's own rewards, and nothing that it rewards is correct."""
        if self._is_quiet or any(one.is_correct for one in trajectories):
            self._is_quiet = True
            return
        self._seen += sum(bool(one.reward) for one in trajectories)
        if self._seen >= _ENOUGH:
            self._is_quiet = True
            rank_zero_warn(
                f"{self.reward} (`rollout.reward`) rewarded {self._seen} trajectories, none of which is "
                "correct, because no answer matches a gold answer exactly: signals, probes and detector see no right "
                "answer. If that is not meant, set `correct_from` in the class, or `rollout.correct`."
            )


def _guarded(part: Reward, trajectory: Trajectory, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except (RewardFailure, OSError) as error:
        return RewardFailure(f"{part}: {error}")
    except (Exception, SystemExit) as error:  # whatever a stranger's code does
        if isinstance(error, SystemExit) and type(error) is not SystemExit:
            raise  # a signal to this process, which is no doing of the class
        raise _wrong(part, trajectory, error) from error


def _turn_values(part: Reward, trajectory: Trajectory) -> list[Any]:
    """What a reward says of each action."""
    count = len(trajectory.turns)
    try:
        found = part.score_turns(trajectory)
        values = [None] * count if found is None else list(found)
    except Exception as error:  # whatever a stranger's code does
        raise _wrong(part, trajectory, error) from error
    if len(values) != count:
        raise ConfigurationError(
            f"Expected `score_turns` of {_where(part, trajectory)}, to return {count} numbers, one for each action, "
            f"got {len(values)}. Give None for an action of which there is nothing to say."
        )
    return values


def _wrong(part: Reward, trajectory: Trajectory, error: BaseException) -> ConfigurationError:
    if isinstance(error, ConfigurationError):
        return error
    return ConfigurationError(
        f"Expected a reward from {_where(part, trajectory)}, got {said_by(error)}. Correct the class."
    )


def _number(part: Reward, trajectory: Trajectory, value: Any) -> float:
    if getattr(value, "ndim", None) == 0:  # a scalar of numpy or torch: of a comparison, of a model
        value = value.item()
    if not _is_finite(value):
        raise ConfigurationError(
            f"Expected a finite number from {_where(part, trajectory)}, got {_in_words(value)}. "
            "Return a number, such as 0.0, for every trajectory."
        )
    return float(value)


def _where(part: Reward, trajectory: Trajectory) -> str:
    return f"{part} (`rollout.reward`) for trajectory {trajectory.index}, {_question(trajectory)}"


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _in_words(value: object) -> str:
    try:
        return shorten(value)
    except Exception:  # of thousands of digits, or of a stranger's `__repr__`
        return f"{type(value).__name__} that cannot be shown"


def _question(trajectory: Trajectory) -> str:
    prompt = trajectory.prompt
    return f"question {prompt.prompt_id!r} ({prompt.origin or prompt.data_source})"
