"""A language model as the judge: asks any server that speaks OpenAI's API whether an answer is right."""

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import aiohttp

from llds.errors import ConfigurationError, RewardFailure
from llds.rewards.answers import exact_match
from llds.rewards.base import Reward
from llds.types import Trajectory

_QUESTION = (
    "Question: {question}\nAccepted answers: {golds}\nGiven answer: {answer}\n\n"
    "Does the given answer mean the same as one of the accepted answers? Reply with yes or no only."
)
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_REFUSALS = {401, 403, 404, 405}
"""Of any question: a wrong key, model or address."""
_BEGIN = b'{"key": '
"""Of a line of the cache."""


class JudgeReward(Reward):
    """1 where the judge says yes, 0 where it says no. An answer that matches exactly is right without a question.

    The same answer to the same question is judged once. A server that cannot be reached, is busy, does not take this
    one answer, or says neither yes nor no has failed: the trajectory then counts as failed, not as wrong.

    Args:
        url: Of the API, such as ``http://127.0.0.1:8000/v1``.
        model: The judge's name there.
        instructions: What is asked; ``{question}``, ``{golds}`` and ``{answer}`` stand for what they say.
        cache: File in which verdicts are kept for later runs, JSON lines; None keeps them for this run.
        api_key_variable: Name of the environment variable that holds the key.
        max_tokens: Of a reply.

    Raises:
        ConfigurationError: The server refuses the request for good (a wrong model, no key); or the cache is damaged.
    """

    correct_from = 1.0

    def __init__(
        self,
        url: str,
        model: str,
        instructions: str = _QUESTION,
        cache: str | None = None,
        api_key_variable: str = "OPENAI_API_KEY",
        max_tokens: int = 8,
    ) -> None:
        if "{answer}" not in instructions:
            raise ConfigurationError("Expected `instructions` of the judge to hold {answer}, got none. Add it.")
        self.url, self.model, self.instructions = url.rstrip("/"), model, instructions
        self.api_key_variable, self.max_tokens = api_key_variable, max_tokens
        self.cache = None if cache is None else Path(cache)
        self._verdicts: dict[str, float] = _read_cache(self.cache)
        self._asking: dict[str, asyncio.Future[float]] = {}

    async def __call__(self, trajectory: Trajectory) -> float:
        """Return 1.0 or 0.0; a trajectory without an answer is worth 0."""
        prompt, answer = trajectory.prompt, trajectory.answer
        if answer is None or exact_match(answer, prompt.golden_answers) == 1:
            return 0.0 if answer is None else 1.0
        key = json.dumps([self.model, self.instructions, prompt.question, list(prompt.golden_answers), answer])
        if key in self._verdicts:
            return self._verdicts[key]
        if key not in self._asking:
            self._asking[key] = asyncio.ensure_future(self._ask(key, prompt.question, prompt.golden_answers, answer))
            self._asking[key].add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(self._asking[key])

    async def _ask(self, key: str, question: str, golds: tuple[str, ...], answer: str) -> float:
        said = {"{question}": question, "{golds}": "; ".join(golds), "{answer}": answer}
        text = re.sub(r"\{(?:question|golds|answer)\}", lambda one: said[one[0]], self.instructions)
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        verdict = _verdict(await self._post(body))
        self._verdicts[key] = verdict
        if self.cache is not None:
            with self.cache.open("a") as file:
                file.write(json.dumps({"key": key, "verdict": verdict}) + "\n")
        return verdict

    async def _post(self, body: dict[str, Any]) -> Any:
        key = os.environ.get(self.api_key_variable, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.post(f"{self.url}/chat/completions", json=body) as reply,
            ):
                text = await reply.text()
        except (aiohttp.ClientError, UnicodeDecodeError) as error:
            raise RewardFailure(f"the judge at {self.url} cannot be asked: {error}") from error
        if reply.status in _REFUSALS:
            raise ConfigurationError(
                f"Expected the judge at {self.url} to take a question to the model {self.model!r}, got status "
                f"{reply.status}: {text[:200]}. Correct `url`, `model` or the key in ${self.api_key_variable}."
            )
        if reply.status >= 400:  # it is busy or broken, or this one answer is too long for it, or filtered out
            raise RewardFailure(f"the judge at {self.url} answered with status {reply.status}: {text[:200]}")
        try:
            return json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise RewardFailure(f"the judge at {self.url} sent no completion: {text[:100]!r}") from error


def _verdict(said: Any) -> float:
    found = _VERDICT.findall(said) if isinstance(said, str) else []
    if not found:
        raise RewardFailure(f"the judge said neither yes nor no: {str(said)[:80]!r}")
    return float(found[-1].lower() == "yes")


def _read_cache(path: Path | None) -> dict[str, float]:
    """The verdicts of a file; half a line at its end, which a kill left, is taken away."""
    if path is None or not path.exists():
        return {}
    try:
        whole, newline, torn = path.read_bytes().rpartition(b"\n")
        rows = [json.loads(line) for line in whole.splitlines()]
        found = {row["key"]: float(row["verdict"]) for row in rows}
        if torn:
            if torn[: len(_BEGIN)] != _BEGIN[: len(torn)]:
                raise ValueError(f"{torn[:40]!r} at the end")
            os.truncate(path, len(whole + newline))
        return found
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigurationError(
            f"Expected verdicts in `cache` of the judge, got {error} in {path}. Remove the file, or name another."
        ) from error
