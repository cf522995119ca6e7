"""State that a trajectory has to itself: an environment, opened before its first action and closed after its last.

An environment is any class; nothing of it is asked but this, which is the contract of TRL's environments too:

* ``reset(...)`` begins an episode. It gets the columns of the question's row by name, those that it has parameters for,
  and returns a text for the prompt, or None.
* Its other public methods are the agent's tools: typed, with a docstring that has a line for each argument, plain or
  ``async`` (see `FunctionTool`). ``close``, ``reward`` and ``get_reward`` are none.
* ``get_reward()`` or ``reward()``, where there is one, or a number kept as ``self.reward``, says what the episode was
  worth: `llds.rewards.EnvironmentReward` takes it.
* ``close()``, where there is one, frees what it holds: after an answer, a failure, and when a run is stopped.

Left out on purpose: where the text of ``reset`` stands (at ``{observation}`` of the prompt template).
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from llds.agent_tools.base import AgentTool, ToolContext, context_parameter
from llds.agent_tools.function import function_schema, imported_function, run_function
from llds.errors import ConfigurationError, ToolFailure
from llds.types import ToolResult, Trajectory

_NO_TOOLS = frozenset({"reset", "close", "reward", "get_reward"})


class EnvironmentTool(AgentTool):
    """A method of the environment of the trajectory that calls it.

    Args:
        method: Of the class.
        factory: Has the environments.
    """

    def __init__(self, method: Callable[..., Any], factory: "EnvironmentFactory") -> None:
        described = function_schema(method)
        self.name, self.description = described["name"], described["description"]
        self.parameters = described["parameters"]
        self._method, self._factory = method, factory

    async def call(self, arguments: Any, context: ToolContext) -> ToolResult:
        """Check the arguments, and call the method; calls of one environment follow each other."""
        checked, asked = self._checked(arguments), context_parameter(self._method)
        environment, lock = self._factory.of(context.trajectory)
        async with lock:
            bound = getattr(environment, self.name)
            return await run_function(bound, checked | ({asked: context} if asked else {}))

    async def run(self, **arguments: Any) -> ToolResult:
        """Needs the trajectory: see `call`."""
        raise NotImplementedError


class EnvironmentFactory:
    """Makes an environment for each trajectory.

    Args:
        environment: The class, or its import path, such as ``my_module.Shop``.
        arguments: Of its constructor.
        max_open: Most environments that are open at a time; further trajectories wait.
        deadline_s: Longest time that ``reset``, ``reward`` and ``close`` may take each, in seconds.

    Attributes:
        tools: Its methods.

    Raises:
        ConfigurationError: It cannot be imported, has no ``reset`` or no tools, or a method is not described.
    """

    def __init__(
        self,
        environment: str | type,
        arguments: dict[str, Any] | None = None,
        max_open: int = 256,
        deadline_s: float = 30.0,
    ) -> None:
        made: Any = imported_function(environment) if isinstance(environment, str) else environment
        if not isinstance(made, type) or not callable(getattr(made, "reset", None)):
            raise ConfigurationError(
                f"Expected `model.environment` to name a class with a method `reset`, got {environment!r}. Add it."
            )
        if max_open < 1 or deadline_s <= 0:
            raise ConfigurationError(
                f"Expected `max_open` >= 1 and `deadline_s` > 0 of the environment, got {max_open} and {deadline_s:g}."
            )
        self.environment, self.arguments = made, arguments or {}
        self.max_open, self.deadline_s = max_open, deadline_s
        methods = inspect.getmembers(made, inspect.isfunction)
        public = [method for name, method in methods if not name.startswith("_") and name not in _NO_TOOLS]
        self.tools: list[AgentTool] = [EnvironmentTool(method, self) for method in public]
        if not self.tools:
            raise ConfigurationError(
                f"Expected {made.__qualname__} to have public methods beside reset, reward and close, which are the "
                "agent's tools, got none. Add one."
            )
        self._open: dict[int, tuple[Any, asyncio.Lock]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = asyncio.Semaphore(max_open)

    @property
    def open_count(self) -> int:
        """Environments that are open now."""
        return len(self._open)

    def of(self, trajectory: int) -> tuple[Any, asyncio.Lock]:
        """The environment of a trajectory, and its lock.

        Raises:
            ToolFailure: It is not open.
        """
        if trajectory not in self._open:
            raise ToolFailure(f"trajectory {trajectory} has no open environment")
        return self._open[trajectory]

    @asynccontextmanager
    async def opened(self, trajectory: Trajectory) -> AsyncIterator[str | None]:
        """Open an environment for as long as an episode lasts; gives what ``reset`` says.

        Where the episode ends by itself, what ``reward`` says is noted on the trajectory.

        Raises:
            ToolFailure: The environment could not be opened, or asked for its reward.
        """
        self._enter_loop()
        async with self._places:
            environment = await self._asked("constructor", functools.partial(self.environment, **self.arguments))
            self._open[trajectory.index] = environment, asyncio.Lock()
            try:
                row = _accepted(environment.reset, trajectory.prompt.row)
                said = await self._asked("reset", functools.partial(environment.reset, **row))
                yield None if said is None else str(said)
                trajectory.environment_reward = await self._worth(environment)
            finally:
                del self._open[trajectory.index]
                await self._close(environment)

    def _enter_loop(self) -> None:
        """Forget what belongs to another event loop, which an interrupted collection may have left."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._places, self._open = loop, asyncio.Semaphore(self.max_open), {}

    async def _worth(self, environment: Any) -> float | None:
        """What the environment says that the episode was worth; None where it says nothing."""
        said = getattr(environment, "get_reward", getattr(environment, "reward", None))
        worth = await self._asked("reward", said) if callable(said) else said
        try:
            return None if worth is None else float(worth)
        except (TypeError, ValueError) as error:
            raise ToolFailure(
                f"Expected a number, or None, as the reward of {self.environment.__qualname__}, got {worth!r:.80}"
            ) from error

    async def _asked(self, what: str, function: Callable[[], Any]) -> Any:
        called = f"{what} of {self.environment.__qualname__}"
        try:
            async with asyncio.timeout(self.deadline_s):
                if inspect.iscoroutinefunction(getattr(function, "func", function)):
                    return await function()
                return await asyncio.to_thread(function)
        except (ToolFailure, ConfigurationError):
            raise
        except TimeoutError as error:
            raise ToolFailure(f"{called} took longer than {self.deadline_s:g} s") from error
        except Exception as error:  # whatever a stranger's code does
            raise ToolFailure(f"{called} raised {type(error).__name__}: {error}") from error

    async def _close(self, environment: Any) -> None:
        if not callable(getattr(environment, "close", None)):
            return
        try:
            await asyncio.shield(self._asked("close", environment.close))
        except ToolFailure as error:
            rank_zero_warn(f"An environment could not be closed, and may hold what it had: {error}")


def _accepted(reset: Callable[..., Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a row that ``reset`` has parameters for; the row itself for one of the name ``row``."""
    parameters = inspect.signature(reset).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    known = {name: value for name, value in row.items() if takes_all or name in parameters}
    return known | ({"row": row} if "row" in parameters and "row" not in row else {})
