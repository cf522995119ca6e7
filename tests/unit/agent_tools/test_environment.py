"""State for each trajectory: opened and closed with it, its methods the tools, and what it says of the episode."""

import asyncio
import importlib.util
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from llds.agent_tools import EnvironmentFactory, FunctionTool, ToolContext
from llds.errors import ConfigurationError, ToolInputError
from llds.rewards import EnvironmentReward
from llds.rollout import Collection, EpisodeLimits, RolloutCollector, TagProtocol, ToolCallPolicy
from llds.rollout.scoring import Scoring
from llds.samplers import SampleRequest
from llds.types import Completion, Prompt, SamplingParams, Trajectory
from tests.scripted_sampler import ScriptedSampler

ROOT = Path(__file__).parents[3]


class Counter:
    """As TRL's users write them: reset with keywords, typed methods, no class of ours."""

    alive: ClassVar[list["Counter"]] = []
    most: ClassVar[int] = 0

    def __init__(self, start: int = 0) -> None:
        self.start = start

    def reset(self, level: int = 0, **kwargs: Any) -> str | None:
        """Begin."""
        if kwargs.get("broken"):
            raise ConnectionError("no place")
        Counter.alive.append(self)
        Counter.most = max(Counter.most, len(Counter.alive))
        self.count = self.start + level
        return kwargs.get("said")

    def add(self, much: int, context: ToolContext) -> str:
        """Adds to the count.

        Args:
            much: How much.
            context: Where the call comes from.
        """
        self.count += much
        return f"{self.count} at {context.turn}"

    def reward(self) -> float:
        """The count."""
        return float(self.count)

    def close(self) -> None:
        """Leave."""
        Counter.alive = [one for one in Counter.alive if one is not self]


class InterruptedSampler(ScriptedSampler):
    """Once two trajectories have acted, Ctrl-C is pressed, and no action ends any more."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[int] = []

    async def sample(self, request: SampleRequest) -> Completion:
        """Act once for each."""
        if len(self.requests) < 2:
            return await super().sample(request)
        if not self.seen:
            self.seen.append(len(Counter.alive))
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    Counter.alive, Counter.most = [], 0
    yield
    assert Counter.alive == []  # whatever happened, all are closed


class Guessing:
    """As the examples of TRL and OpenEnv: the reward is a number that it keeps, and the end an exception."""

    def __init__(self) -> None:
        self.reward: Any = 0.0
        self.done = False

    def reset(self, **kwargs: Any) -> str | None:
        """Begin."""
        self.word, self.reward = kwargs["word"], kwargs.get("worth", 0.0)
        return None

    def guess(self, guess: str) -> str:
        """Make a guess.

        Args:
            guess: The guessed word, formatted as '[abcde]'

        Returns:
            The feedback.
        """
        if self.done:
            raise ValueError("Game over.")
        self.done = guess == f"[{self.word}]"
        self.reward = float(self.done)
        return "Right." if self.done else "Wrong."


class Owning(Guessing):
    """It owns its reward, in the words of TRL."""

    async def get_reward(self) -> Any:
        """Half of it."""
        return self.reward / 2


def play(
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, Any]],
    script: Any,
    opening: bool = False,
    environment: type = Counter,
    **settings: Any,
) -> list[Trajectory]:
    factory = EnvironmentFactory(environment, {"start": 10} if environment is Counter else None, **settings)
    sampler = script if isinstance(script, ScriptedSampler) else ScriptedSampler(tokenizer, script)
    collector = RolloutCollector(
        sampler, tokenizer, TagProtocol(), factory.tools, ToolCallPolicy(max_retries=0), stateful=factory
    )
    prompts = [
        Prompt("p", "q", ("1",), prompt_ids=(5, 6), row=row, opening=range(1, 1) if opening else None) for row in rows
    ]
    try:
        return collector.collect(prompts, Collection(1, SamplingParams(), EpisodeLimits(), (0, 0, 0)))
    finally:
        collector.close()
        assert factory.open_count == 0


def test_each_trajectory_has_its_own_and_its_reward(tokenizer: PreTrainedTokenizerFast) -> None:
    def script(trajectory: int, turn: int) -> str:
        return f"<add>{trajectory + 1}</add>" if turn < 2 else "<answer>1</answer>"

    trajectories = play(tokenizer, [{"level": 0}, {"level": 100}, {"level": 200}], script, max_open=2)
    said = [[str(tokenizer.decode(turn.observation_ids)).strip() for turn in one.turns[:2]] for one in trajectories]
    assert said[1] == ["<information>112 at 0</information>", "<information>114 at 1</information>"]
    assert [one.environment_reward for one in trajectories] == [12.0, 114.0, 216.0]
    assert Counter.most <= 2
    Scoring(EnvironmentReward(correct_from=100)).score(trajectories, asyncio.run)
    assert [(one.reward, one.is_correct) for one in trajectories] == [(12.0, False), (114.0, True), (216.0, True)]


@pytest.mark.parametrize(("kind", "worth"), [(Guessing, 1.0), (Owning, 0.5)])
def test_an_environment_as_trl_wants_it_runs_unchanged(
    tokenizer: PreTrainedTokenizerFast, kind: type, worth: float
) -> None:
    def script(trajectory: int, turn: int) -> str:
        words = "apple", "grape", "grape" if trajectory == 0 else "apple"
        return f"<guess>[{words[turn]}]</guess>" if turn < 3 else "<answer>1</answer>"

    trajectories = play(tokenizer, [{"word": "grape"}, {"word": "melon"}], script, environment=kind)
    assert [tool.name for tool in EnvironmentFactory(kind).tools] == ["guess"]
    said = [str(tokenizer.decode(turn.observation_ids)) for turn in trajectories[0].turns[:3]]
    assert [word in one for word, one in zip(("Wrong.", "Right.", "Error: Game over."), said, strict=True)] == [
        True
    ] * 3
    assert [one.environment_reward for one in trajectories] == [worth, 0.0]
    [odd] = play(tokenizer, [{"word": "", "worth": "a lot"}], lambda *_: "<answer>1</answer>", environment=Guessing)
    assert "a number, or None, as the reward of Guessing, got 'a lot'" in odd.failure


def test_a_failure_closes_it_and_is_no_reward(tokenizer: PreTrainedTokenizerFast) -> None:
    def script(trajectory: int, turn: int) -> str | Exception:
        return RuntimeError("bug") if trajectory == 0 else "<answer>1</answer>"

    with pytest.raises(RuntimeError, match="bug"):
        play(tokenizer, [{}, {}], script)
    [broken, fine] = play(tokenizer, [{"broken": True}, {}], lambda *_: "<answer>1</answer>")
    assert (broken.status, broken.failed_by, broken.environment_reward) == ("failed", "tool", None)
    assert "reset of Counter raised ConnectionError: no place" in broken.failure
    assert (fine.status, fine.environment_reward) == ("answered", 10.0)


def test_ctrl_c_closes_what_is_open(tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = InterruptedSampler(tokenizer, lambda *_: "<add>1</add>")
    with pytest.raises(KeyboardInterrupt):
        play(tokenizer, [{}, {}], sampler)
    assert sampler.seen == [2]
    assert Counter.alive == []


def test_what_reset_says_stands_in_the_prompt_where_there_is_a_place(tokenizer: PreTrainedTokenizerFast) -> None:
    said = "There <answer>x</answer> are 10."
    [one] = play(tokenizer, [{"said": said}], lambda *_: "<answer>1</answer>", opening=True)
    text = str(tokenizer.decode(list(one.prompt.prompt_ids)[1:-1]))
    assert text == "There &lt;answer>x&lt;/answer> are 10."
    with pytest.raises(ConfigurationError, match=r"\{observation\}"):
        play(tokenizer, [{"said": said}], lambda *_: "<answer>1</answer>")


def test_a_class_that_is_no_environment_is_refused() -> None:
    class Nothing:
        def reset(self) -> None: ...

    class Undocumented(Nothing):
        def go(self, where: str) -> str:
            return where

    for wrong, said in (
        (dict, "`reset`"),
        (Nothing, "public methods"),
        (Undocumented, "docstring"),
        ("x.y", "import path"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            EnvironmentFactory(wrong)
    with pytest.raises(ConfigurationError, match="max_open"):
        EnvironmentFactory(Counter, max_open=0)


def test_the_database_of_the_recipe_answers_and_says_what_is_wrong_with_a_statement(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    specification = importlib.util.spec_from_file_location("shop_sql", ROOT / "conf" / "agents" / "sql.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "_DEADLINE_S", 0.05)
    shop = module.SqlEnvironment(str(ROOT / "conf" / "agents" / "shop.sql"))
    shop.reset()
    assert "CREATE TABLE orders" in shop.tables()
    assert shop.query("SELECT count(*) FROM customers WHERE city = 'Oslo'") == "2"
    assert shop.query("DELETE FROM orders") == "No rows."
    with pytest.raises(ValueError, match="no such column"):
        shop.query("SELECT x FROM orders")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with pytest.raises(ValueError, match="interrupted"):
        shop.query(endless)
    shop.close()
    assert [tool.name for tool in EnvironmentFactory(module.SqlEnvironment).tools] == ["query", "tables"]


def test_the_page_about_an_agent_of_ones_own_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    page = (ROOT / "docs" / "own_agent.md").read_text()
    for name, code in re.findall(r"```python\n# (\w+)\.py\n(.*?)```", page, re.DOTALL):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    configurations = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(configurations) == 5
    added, own = (one["model"]["init_args"] for one in configurations[:2])
    functions = [one["init_args"]["function"] for one in added["agent_tools+"] + own["agent_tools"][1:]]
    tools = {tool.name: tool for tool in map(FunctionTool, functions)}
    context = ToolContext({"hint": "It is a city."})
    assert asyncio.run(tools["population"].call('{"city": "Oslo", "year": 2020}', context)).text == "717710"
    assert asyncio.run(tools["hint"].call("Oslo", context)).text == "It is a city."
    with pytest.raises(ToolInputError, match="There are: Oslo, Bergen"):
        asyncio.run(tools["population"].call({"city": "Paris"}, context))
    script = ['population: {"city": "Oslo"}\n', "population\n", "people: 5\n", "answer: 717710\n"]
    sampler = ScriptedSampler(tokenizer, lambda _, turn: script[turn])
    protocol = importlib.import_module("my_protocol").LineProtocol()
    collector = RolloutCollector(sampler, tokenizer, protocol, [tools["population"]], ToolCallPolicy(max_retries=0))
    limits = Collection(1, SamplingParams(), EpisodeLimits(), (0, 0, 0))
    [episode] = collector.collect([Prompt("p", "q", ("1",), prompt_ids=(5, 6))], limits)
    collector.close()
    said = [str(tokenizer.decode(turn.observation_ids)) for turn in episode.turns[:3]]
    assert (said[0], said[2]) == ("result: 717710\n", "wrong: There is no such tool.\n")
    assert said[1].startswith("result: Error: ")
    assert episode.answer == "717710"
    database = EnvironmentFactory(**configurations[3]["model"]["init_args"]["environment"])
    row = {"tables": "CREATE TABLE cities (name); INSERT INTO cities VALUES ('Oslo'), ('Bergen')"}
    trajectory = Trajectory(Prompt("p", "?", ("1",), row=row), "g", 0, SamplingParams())

    async def ask() -> str:
        async with database.opened(trajectory):
            with pytest.raises(ToolInputError, match="SQLite says: no such table: towns"):
                await database.tools[0].call({"sql": "SELECT * FROM towns"}, ToolContext())
            return (await database.tools[0].call("SELECT name, 2 FROM cities", ToolContext())).text

    assert asyncio.run(ask()) == "Oslo, 2\nBergen, 2"
    assert trajectory.environment_reward == 0.5
