"""Many episodes side by side: groups, concurrency, failures, interrupts; and the real sampler end to end."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from llds.agent_tools import AgentTool, PythonTool
from llds.errors import ConfigurationError, SamplerError
from llds.rollout import Collection, EpisodeLimits, RolloutCollector, TagProtocol, ToolCallPolicy
from llds.samplers import TransformersSampler
from llds.samplers.base import Sampler
from llds.types import Prompt, SamplingParams, ToolResult, Trajectory
from tests.scripted_sampler import ScriptedSampler
from tests.tiny_policy import random_policy

SEARCH, ANSWER = "<search>{}</search>", "<answer>Oslo</answer>"
LIMITS = EpisodeLimits(action_tokens=20, observation_tokens=100, total_tokens=1000, turns=2)


class Tool(AgentTool):
    """Does what the test wants with the argument."""

    name = "search"
    description = "A tool."

    def __init__(self, work: Callable[[str], object] = lambda argument: "Oslo") -> None:
        self.work = work
        self.iterations = 0

    def begin_iteration(self) -> None:
        """Count."""
        self.iterations += 1

    async def run(self, argument: str) -> ToolResult:
        """Work, and wait if the work is to be waited for."""
        result = self.work(argument)
        if asyncio.iscoroutine(result):
            result = await result
        return ToolResult(str(result))


Make = Callable[..., RolloutCollector]


@pytest.fixture
def make(tokenizer: PreTrainedTokenizerFast) -> Iterator[Make]:
    """Makes collectors, and closes them."""
    made: list[RolloutCollector] = []

    def make(sampler: Sampler, tool: AgentTool | None = None, **policy: float) -> RolloutCollector:
        settings = ToolCallPolicy(**{"max_retries": 0, "backoff_s": 0.0, **policy})  # type: ignore[arg-type]
        made.append(RolloutCollector(sampler, tokenizer, TagProtocol(), [tool or Tool()], settings))
        return made[-1]

    yield make
    for collector in made:
        collector.close()


def prompts(tokenizer: PreTrainedTokenizerFast, number: int) -> list[Prompt]:
    texts = ["What is " + " of" * position for position in range(number)]
    return [Prompt(f"p{n}", text, ("Oslo",), prompt_ids=tuple(tokenizer.encode(text))) for n, text in enumerate(texts)]


def collection(group_size: int = 2, iteration: int = 5, limits: EpisodeLimits = LIMITS) -> Collection:
    return Collection(group_size, SamplingParams(), limits, (11, 0, iteration))


def search_then_answer(trajectory: int, turn: int) -> str:
    return SEARCH.format(trajectory) if turn == 0 else ANSWER


def statuses(trajectories: Sequence[Trajectory]) -> list[str]:
    return [trajectory.status for trajectory in trajectories]


def test_groups_are_neighbours_with_ids_unique_per_iteration_and_position(
    make: Make, tokenizer: PreTrainedTokenizerFast
) -> None:
    sampler = ScriptedSampler(tokenizer, lambda trajectory, turn: ANSWER)
    sampler.policy_version = 9
    collector = make(sampler)
    asked = [prompts(tokenizer, 1)[0]] * 3  # the same question three times is three groups
    first = collector.collect(asked, collection(iteration=0))
    second = collector.collect(asked, collection(iteration=1))
    ids = [trajectory.group_id for trajectory in first + second]
    assert [ids.count(group) for group in ids] == [2] * 12
    assert all(one == other for one, other in zip(ids[::2], ids[1::2], strict=True))
    assert [trajectory.index for trajectory in first] == list(range(6))
    assert {trajectory.policy_version for trajectory in first} == {9}
    assert statuses(first) == ["answered"] * 6


def test_seeds_differ_between_all_actions(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = ScriptedSampler(tokenizer, search_then_answer)
    collector = make(sampler)
    for iteration in range(2):
        collector.collect(prompts(tokenizer, 2), collection(iteration=iteration))
    seeds = [request.seed for request in sampler.requests]
    assert len(set(seeds)) == len(seeds)


def test_tools_hear_of_every_iteration(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    tool = Tool()
    collector = make(ScriptedSampler(tokenizer, lambda trajectory, turn: ANSWER), tool)
    for _ in range(3):
        collector.collect(prompts(tokenizer, 1), collection())
    assert tool.iterations == 3


def test_a_tool_is_called_before_any_trajectory_acts_again(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    events: list[str] = []

    async def tool(argument: str) -> str:
        events.append(f"call {argument}")
        await asyncio.sleep(0)
        return "Oslo"

    def script(trajectory: int, turn: int) -> str:
        events.append(f"act {trajectory}")
        return search_then_answer(trajectory, turn)

    make(ScriptedSampler(tokenizer, script), Tool(tool)).collect(prompts(tokenizer, 3), collection(group_size=1))
    assert events[:6] == ["act 0", "act 1", "act 2", "call 0", "call 1", "call 2"]


def test_the_tokenizer_of_others_is_left_alone(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    splits: list[bool] = []

    def script(trajectory: int, turn: int) -> str:
        splits.append(tokenizer.backend_tokenizer.encode_special_tokens)
        return search_then_answer(trajectory, turn)

    tokenizer.encode("</s>", split_special_tokens=False)  # what prompts are encoded with, perhaps in another thread
    make(ScriptedSampler(tokenizer, script)).collect(prompts(tokenizer, 1), collection(group_size=1))
    assert splits == [False, False]  # before the observation and after it


def test_64_trajectories_are_at_their_tool_at_once(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    in_flight, most = 0, 0
    all_there = asyncio.Event()

    async def slow(argument: str) -> str:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        if in_flight == 64:
            all_there.set()
        await all_there.wait()  # nobody leaves before everybody is there
        in_flight -= 1
        return "Oslo"

    collector = make(ScriptedSampler(tokenizer, search_then_answer), Tool(slow), deadline_s=20.0)
    trajectories = collector.collect(prompts(tokenizer, 8), collection(group_size=8))
    assert most == 64
    assert statuses(trajectories) == ["answered"] * 64


def test_64_blocking_tools_run_in_threads_at_once(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    barrier = threading.Barrier(64)
    tool = Tool(lambda argument: asyncio.to_thread(barrier.wait, 20))
    collector = make(ScriptedSampler(tokenizer, search_then_answer), tool)
    assert statuses(collector.collect(prompts(tokenizer, 8), collection(group_size=8))) == ["answered"] * 64


def test_one_that_waits_for_a_slow_tool_holds_back_no_other(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    events: list[str] = []
    others_are_done = asyncio.Event()

    async def tool(argument: str) -> str:
        if argument == "0":
            await others_are_done.wait()  # ends only if the others get to their end meanwhile
        events.append(f"tool {argument}")
        return "Oslo"

    def script(trajectory: int, turn: int) -> str:
        if turn == 2:
            events.append(f"answer {trajectory}")
            if sum(event.startswith("answer") for event in events) == 3:
                others_are_done.set()
            return ANSWER
        return SEARCH.format(trajectory)

    collector = make(ScriptedSampler(tokenizer, script), Tool(tool), deadline_s=20.0)
    trajectories = collector.collect(prompts(tokenizer, 4), collection(group_size=1))
    assert statuses(trajectories) == ["answered"] * 4
    assert events[-3:] == ["tool 0", "tool 0", "answer 0"]


@pytest.mark.parametrize("error", [KeyError("bug"), ConnectionError("down"), SamplerError("no")])
def test_a_failure_stays_with_its_trajectory(make: Make, tokenizer: PreTrainedTokenizerFast, error: Exception) -> None:
    def fail_third(argument: str) -> str:
        if argument == "3":
            raise error
        return "Oslo"

    collector = make(ScriptedSampler(tokenizer, search_then_answer), Tool(fail_third))
    trajectories = collector.collect(prompts(tokenizer, 3), collection())
    assert statuses(trajectories) == ["answered"] * 3 + ["failed"] + ["answered"] * 2
    assert type(error).__name__ in trajectories[3].failure


def test_a_failed_batch_fails_all_its_trajectories_and_no_later_collection(
    make: Make, tokenizer: PreTrainedTokenizerFast
) -> None:
    sampler = TransformersSampler()
    model = random_policy(tokenizer)
    sampler.attach(model, tokenizer)
    collector = make(sampler)
    beyond = Prompt("p", "q", ("a",), prompt_ids=(len(tokenizer) + 7,))
    failed = collector.collect([*prompts(tokenizer, 1), beyond], collection())
    assert statuses(failed) == ["failed"] * 4
    assert "IndexError" in failed[0].failure
    assert "failed" not in statuses(collector.collect(prompts(tokenizer, 2), collection()))
    sampler.close()


def test_a_hung_thread_fails_its_trajectory_and_nothing_else(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    release = threading.Event()

    def hang(argument: str) -> object:
        return asyncio.to_thread(release.wait, 60) if argument == "1" else "Oslo"

    collector = make(ScriptedSampler(tokenizer, search_then_answer), Tool(hang), deadline_s=0.1)
    trajectories = collector.collect(prompts(tokenizer, 2), collection())
    assert statuses(trajectories) == ["answered", "failed", "answered", "answered"]
    assert "no answer within 0.1 s" in trajectories[1].failure
    release.set()


def test_a_tool_whose_own_limit_is_above_the_deadline_is_refused(
    make: Make, tokenizer: PreTrainedTokenizerFast
) -> None:
    sampler = ScriptedSampler(tokenizer, search_then_answer)
    tool = PythonTool(time_s=30)
    with pytest.raises(ConfigurationError, match=r"deadline_s` above the 31 s .* `python` .* got 31\. Raise"):
        make(sampler, tool, deadline_s=31.0)
    make(sampler, tool, deadline_s=31.5)
    with pytest.raises(ConfigurationError, match="`python`"):
        RolloutCollector(sampler, tokenizer, TagProtocol(), [Tool()], ToolCallPolicy(deadline_s=31.0), tool)


def test_a_wrong_set_up_is_one_plain_error(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    def refuse(argument: str) -> str:
        raise ConfigurationError("no retriever")

    sampler = ScriptedSampler(tokenizer, search_then_answer)
    collector = make(sampler, Tool(refuse))
    with pytest.raises(ConfigurationError, match="no retriever"):
        collector.collect(prompts(tokenizer, 2), collection())
    assert sampler.open == set()


def test_an_interrupt_leaves_nothing_behind(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = TransformersSampler(max_wait_s=20.0)
    sampler.attach(random_policy(tokenizer), tokenizer)
    collector = make(sampler)
    asked = prompts(tokenizer, 3)
    expected = collector.collect(asked, collection())
    endless = EpisodeLimits(action_tokens=100_000, observation_tokens=100, total_tokens=1_000_000)
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        collector.collect(asked, collection(limits=endless))
    assert without_times(collector.collect(asked, collection())) == without_times(expected)
    sampler.close()


def test_a_sampler_serves_one_collector_after_another(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = TransformersSampler(max_wait_s=20.0)
    sampler.attach(random_policy(tokenizer), tokenizer)
    runs = []
    for _ in range(2):
        collector = make(sampler)
        runs.append(without_times(collector.collect(prompts(tokenizer, 3), collection())))
        collector.close()
        sampler.close()
    assert runs[0] == runs[1]


def without_times(trajectories: list[Trajectory]) -> list[Trajectory]:
    for trajectory in trajectories:
        for turn in trajectory.turns:
            turn.tool_s = 0.0
    return trajectories


@pytest.mark.parametrize("max_batch_size", [256, pytest.param(5, marks=pytest.mark.slow)])
def test_a_collection_is_reproducible_to_the_bit_whatever_the_tools_take(
    make: Make, tokenizer: PreTrainedTokenizerFast, max_batch_size: int
) -> None:
    delays = iter([0.0, 0.02, 0.005, 0.03, 0.01] * 1000)

    async def tool(argument: str) -> str:
        await asyncio.sleep(next(delays))
        return "Oslo is the capital of Norway."

    runs = []
    for _ in range(3):
        sampler = TransformersSampler(max_batch_size=max_batch_size, max_wait_s=20.0)
        sampler.attach(random_policy(tokenizer), tokenizer)
        collector = make(sampler, Tool(tool))
        runs.append(without_times(collector.collect(prompts(tokenizer, 6), collection())))
        sampler.close()
        next(delays)
    assert runs[0] == runs[1] == runs[2]


def test_trajectories_of_the_real_sampler_are_their_parts(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = TransformersSampler()
    sampler.attach(random_policy(tokenizer), tokenizer)
    trajectories = make(sampler).collect(prompts(tokenizer, 4), collection())
    for trajectory in trajectories:
        expected = list(trajectory.prompt.prompt_ids)
        for turn in trajectory.turns:
            assert len(turn.action_ids) == len(turn.behavior_log_probs) > 0
            expected += turn.action_ids + turn.observation_ids
        assert trajectory.token_ids == expected
        assert len(trajectory.turns) == 3
    sampler.close()


def test_a_tool_whose_name_cannot_be_a_tag_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tool = Tool()
    tool.name = "answer"
    with pytest.raises(ConfigurationError, match="agent_tools"):
        RolloutCollector(
            ScriptedSampler(tokenizer, search_then_answer), tokenizer, TagProtocol(), [tool], ToolCallPolicy()
        )


def test_what_is_sampled_anew_is_of_the_weights_that_sampled_it(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = ScriptedSampler(tokenizer, lambda trajectory, turn: ANSWER)
    sampler.update_weights([], 3)
    collector = make(sampler)
    first, second = collector.collect(prompts(tokenizer, 1), collection())
    sampler.update_weights([], 4)
    collector.resample([second], collection())
    assert (first.policy_version, second.policy_version) == (3, 4)
