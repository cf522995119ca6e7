"""A vLLM engine of this process in the one thread that uses it: computes a token of every open action at a time.

An action joins the batch the moment it is asked for and leaves it the moment it ends, so that no trajectory waits for
another.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from llds.errors import SamplerError
from llds.samplers.futures import errors_of_engine, fulfil
from llds.samplers.vllm.engine import LocalEngine
from llds.samplers.vllm.requests import completion
from llds.types import Completion

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True, eq=False)
class _Action:
    token_ids: list[int]
    params: dict[str, Any]
    salt: str
    version: int
    future: "Future[Completion]"


class EngineThread:
    """An engine and the one thread that uses it.

    Args:
        make: Makes the engine, in that thread.
    """

    def __init__(self, make: Callable[[], LocalEngine]) -> None:
        self._inbox: queue.SimpleQueue[Callable[[LocalEngine], object] | None] = queue.SimpleQueue()
        self._actions: dict[str, _Action] = {}
        self._count = 0
        ready: Future[LocalEngine] = Future()
        self._thread = threading.Thread(target=self._run, args=(make, ready), name="llds-vllm", daemon=True)
        self._thread.start()
        ready.result()

    def call(
        self,
        method: Callable[Concatenate[LocalEngine, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Call a method of the engine, between two steps."""
        future: Future[Result] = Future()
        self._inbox.put(lambda engine: fulfil(future, lambda: method(engine, *args, **kwargs)))
        return future.result()

    def submit(self, token_ids: list[int], params: dict[str, Any], salt: str, version: int) -> "Future[Completion]":
        """Queue an action."""
        action = _Action(token_ids, params, salt, version, Future())
        self._inbox.put(lambda engine: self._add(engine, action))
        return action.future

    def drop_actions(self) -> None:
        """Forget actions that nobody waits for, such as those of an iteration that was interrupted."""
        self.call(self._drop, list(self._actions))

    def close(self) -> None:
        """End the thread and free the engine."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self, make: Callable[[], LocalEngine], ready: "Future[LocalEngine]") -> None:
        fulfil(ready, make)
        if ready.exception() is not None:
            return
        engine = ready.result()
        while self._serve_inbox(engine):
            self._drop(engine, [name for name, action in self._actions.items() if action.future.cancelled()])
            if engine.is_busy:
                self._step(engine)
        engine.close()

    def _drop(self, engine: LocalEngine, names: list[str]) -> None:
        engine.abort([name for name in names if name in self._actions])
        for name in names:
            if name in self._actions:
                del self._actions[name]

    def _serve_inbox(self, engine: LocalEngine) -> bool:
        """Do what was asked for; waits where there is nothing else to do. Returns whether to go on."""
        while True:
            try:
                work = self._inbox.get(block=not engine.is_busy)
            except queue.Empty:
                return True
            if work is None:
                return False
            work(engine)

    def _add(self, engine: LocalEngine, action: _Action) -> None:
        name = str(self._count)
        self._count += 1
        try:
            with errors_of_engine("vLLM refused a request"):
                engine.add(name, action.token_ids, action.params, action.salt)
        except SamplerError as error:
            action.future.set_exception(error)
        else:
            self._actions[name] = action

    def _step(self, engine: LocalEngine) -> None:
        try:
            with errors_of_engine("vLLM failed"):
                outputs = engine.step()
        except SamplerError as error:
            actions = list(self._actions.values())
            self._drop(engine, list(self._actions))
            for action in actions:
                if action.future.set_running_or_notify_cancel():
                    action.future.set_exception(error)
            return
        for name, output in outputs:
            ended = self._actions.pop(name, None)
            if ended is not None and ended.future.set_running_or_notify_cancel():
                _resolve(ended, output)


def _resolve(action: _Action, output: Any) -> None:
    log_probs = [step[token].logprob for token, step in zip(output.token_ids, output.logprobs, strict=True)]
    versions = [{"version": span.version} for span in output.weight_versions or ()]
    try:
        result = completion(
            output.token_ids, log_probs, output.finish_reason, output.stop_reason, versions, action.version
        )
    except SamplerError as error:
        action.future.set_exception(error)
    else:
        action.future.set_result(result)
