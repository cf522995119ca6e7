"""Plain functions as rewards, with the signature of TRL's, so that those in the wild run unchanged."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llds.errors import ConfigurationError, LLDSError
from llds.rewards.base import Reward, Value
from llds.types import Trajectory


class FunctionReward(Reward):
    """Calls ``f(prompts, completions, **columns)``, which returns a list of numbers, None for what does not apply.

    The function gets the trajectories of an iteration at once; it may be ``async``. It gets, of what it has parameters
    for: ``prompts``, ``completions``, ``completion_ids``, every column of the data file by its name, and of llds
    ``final_answers`` (None without one) and ``golden_answers``. A completion is the text of all that the policy
    sampled; what tools returned is no part of it, so that it can earn nothing. What else TRL's trainer hands over
    (``trainer_state``, ``log_metric``) is that of a trainer which is not there.

    Args:
        function: The function, or its import path, such as ``my_rewards.accuracy``.
        conversational: Whether prompts and completions are lists of messages (``[{role, content}, ...]``), as TRL gives
            them for chats, results of tools among them with the role ``tool``.
        correct_from: Reward from which a trajectory counts as correct; None is exact match of the answer.

    Raises:
        ConfigurationError: There is no such function; or it does not return a number for each trajectory.
    """

    def __init__(
        self, function: str | Callable[..., Any], conversational: bool = False, correct_from: float | None = None
    ) -> None:
        self.function = _imported(function) if isinstance(function, str) else function
        self.conversational = conversational
        self.correct_from = correct_from
        self._decode: Callable[[Sequence[int]], str] | None = None

    def attach(self, decode: Callable[[Sequence[int]], str]) -> None:
        """Use this to make text of tokens."""
        self._decode = decode

    def __call__(self, trajectory: Trajectory) -> Any:
        """Score one trajectory by a call of its own."""
        found = self.score_all([trajectory])
        return _first(found) if inspect.isawaitable(found) else found[0]

    def score_all(self, trajectories: Sequence[Trajectory]) -> Any:
        """Score them in one call."""
        found = self.function(**self._arguments(trajectories))
        return (
            self._checked_later(found, len(trajectories))
            if inspect.isawaitable(found)
            else self._checked(found, len(trajectories))
        )

    async def _checked_later(self, found: Any, count: int) -> list[Value]:
        return self._checked(await found, count)

    def _checked(self, found: Any, count: int) -> list[Value]:
        listed = list(found) if isinstance(found, Sequence) or hasattr(found, "__iter__") else []
        if len(listed) != count:
            raise ConfigurationError(
                f"Expected a list of {count} rewards from {self._named} (`rollout.reward`), got "
                f"{str(found)[:80]!r}. Return one number, or None, for each completion."
            )
        return [None if one is None else float(one) for one in listed]

    def _arguments(self, trajectories: Sequence[Trajectory]) -> dict[str, Any]:
        columns = dict.fromkeys(name for one in trajectories for name in one.prompt.row)
        ways: dict[str, Callable[[Trajectory], Any]] = {name: partial(_column, name) for name in columns}
        ours: dict[str, Callable[[Trajectory], Any]] = {
            "prompts": self._prompt,
            "completions": self._completion,
            "completion_ids": lambda one: [token for turn in one.turns for token in turn.action_ids],
            "final_answers": lambda one: one.answer,
            "golden_answers": lambda one: list(one.prompt.golden_answers),
        }
        ways |= ours
        parameters = inspect.signature(self.function).parameters
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        needed = [name for name, one in parameters.items() if one.default is one.empty and one.kind in named]
        if missing := [name for name in needed if name not in ways]:
            raise ConfigurationError(
                f"Expected the data to have a column {missing[0]!r}, which {self._named} "
                f"(`rollout.reward`) asks for, got {', '.join(columns) or 'none'}, and of llds {', '.join(ours)}. Add "
                "it, name the parameter otherwise, or give it a default."
            )
        takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
        asked = {name: way for name, way in ways.items() if takes_all or name in parameters}
        return {name: [way(one) for one in trajectories] for name, way in asked.items()}

    def __str__(self) -> str:
        """What messages call it: one of several is known by its function."""
        return f"{type(self).__name__} of {self._named}"

    @property
    def _named(self) -> str:
        return str(getattr(self.function, "__qualname__", type(self.function).__qualname__))

    def _prompt(self, trajectory: Trajectory) -> Any:
        messages = trajectory.prompt.messages or ({"role": "user", "content": trajectory.prompt.question},)
        return [dict(one) for one in messages] if self.conversational else self._text(trajectory.prompt.prompt_ids)

    def _completion(self, trajectory: Trajectory) -> Any:
        if not self.conversational:
            return self._text([token for turn in trajectory.turns for token in turn.action_ids])
        messages = []
        for turn in trajectory.turns:
            messages.append({"role": "assistant", "content": self._text(turn.action_ids)})
            if turn.observation_ids:
                messages.append({"role": "tool", "content": self._text(turn.observation_ids)})
        return messages

    def _text(self, ids: Sequence[int]) -> str:
        if self._decode is None:
            raise LLDSError("Expected attach() before a reward makes text of tokens, got no such call.")
        return self._decode(ids)


def _column(name: str, trajectory: Trajectory) -> Any:
    return trajectory.prompt.row.get(name)


async def _first(found: Any) -> Value:
    return (await found)[0]


def _imported(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"Expected `function` of a reward to be the import path of a function, such as my_rewards.accuracy, got "
            f"{path!r}: {error}. Correct it, or name the folder of your module under `import_from`."
        ) from error
    if not callable(found):
        raise ConfigurationError(f"Expected `function` of a reward to be a function, got a {type(found).__name__}.")
    return found
