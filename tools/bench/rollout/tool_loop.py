"""Wall time of the tool part of a rollout: do the trajectories wait for their tools side by side?

Run from the repository root (about a minute)::

    python tools/bench/rollout/tool_loop.py
    python tools/bench/rollout/tool_loop.py --without-policy --repeats 15
    python tools/bench/rollout/tool_loop.py --trajectories 256 --delays-ms 20 100 --repeats 5

Ideal is one delay for each turn with a tool call: everybody waits at the same time. One after another would be that
times the number of trajectories. The table has the median ratio of measured to ideal time, the processor time of a
rollout (tokenising, parsing, the event loop: what keeps short delays from the ideal on one core), and how many calls
were under way at once. No passage comes twice, so that none of their tokens is remembered. Timers are exact: those that
asyncio has by default end up to 2 ms late, unlike the reply of a server.

* floor: as many bare tasks, each of which sleeps as often and does nothing else: what the interpreter takes.
* async: the tool awaits; the sampler is scripted and costs nothing, so all that is measured is the loop.
* floor, thread: the same with a tool that blocks in a thread (``asyncio.to_thread``), as a blocking client does.
* outlier: async, and one call takes ten delays; ideal is that trajectory alone.
* policy: the tool awaits; the policy that ships with llds samples greedily, in one thread. Tool part is the time of the
  rollout less that of the same rollout with a tool that takes no time. Below 1 the tools of some ran while others were
  still generated; noise of the generation is in it too.
"""

import argparse
import asyncio
import itertools
import math
import selectors
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from llds.agent_tools import AgentTool
from llds.files import read_rows
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.rollout import Collection, EpisodeLimits, RolloutCollector, TagProtocol, ToolCallPolicy
from llds.samplers import Sampler, SampleRequest, TransformersSampler
from llds.samplers.event_loop import BackgroundLoop
from llds.types import Completion, Prompt, SamplingParams, ToolResult

POLICY = "llds:quickstart/policy"
QUESTIONS = "llds:quickstart/train.jsonl"
_OUTLIER = 10
PASSAGE = 'Doc 1(Title: "Norway") The capital of Norway is Oslo, {} km from here.'
_numbers = itertools.count()


class ExactTimers(asyncio.DefaultEventLoopPolicy):
    """Event loops that wake to the microsecond, not to the millisecond rounded up."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Make a loop that waits by ``select``."""
        return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def wait(delay_s: float, in_thread: bool) -> None:
    """Wait as a tool does."""
    if in_thread:
        await asyncio.to_thread(time.sleep, delay_s)
    else:
        await asyncio.sleep(delay_s)


class DelayedTool(AgentTool):
    """Takes a while and finds something new.

    Args:
        delay_s: Time of a call, in seconds.
        in_thread: Whether it blocks in a thread instead of awaiting.
        first_takes: Delays that the first call of a rollout takes.

    Attributes:
        most_at_once: Most calls that were under way at the same time.
    """

    name = "search"
    description = "Finds passages."

    def __init__(self, delay_s: float, in_thread: bool, first_takes: int = 1) -> None:
        self.delay_s = delay_s
        self.in_thread = in_thread
        self.first_takes = first_takes
        self.most_at_once = 0
        self._at_once = 0
        self._is_first = True

    def begin_iteration(self) -> None:
        """Let the next call be the first."""
        self._is_first = True

    async def run(self, argument: str) -> ToolResult:
        """Wait, then answer."""
        delay_s, self._is_first = self.delay_s * (self.first_takes if self._is_first else 1), False
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        if self.delay_s > 0:
            await wait(delay_s, self.in_thread)
        self._at_once -= 1
        return ToolResult(PASSAGE.format(next(_numbers)))


@dataclass(frozen=True)
class Measured:
    """A rollout.

    Attributes:
        seconds: Median wall time.
        cpu_s: Median processor time of the process.
        calls: Most tool calls of one of its trajectories.
        at_once: Most calls that were under way at the same time.
    """

    seconds: float
    cpu_s: float
    calls: int
    at_once: int


class SearchingSampler(Sampler):
    """Searches in every turn; costs nothing.

    Args:
        tokenizer: Encodes the search.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        ids = list(tokenizer.encode("<search>capital of Norway</search>", add_special_tokens=False))
        self.completion = Completion(ids, [0.0] * len(ids), "stop")

    async def sample(self, request: SampleRequest) -> Completion:
        """Search."""
        return self.completion

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Do nothing."""


class Bench:
    """Measures rollouts.

    Args:
        trajectories: Trajectories of a rollout.
        turns: Tool calls of each, at most.
        repeats: Measurements of each number.
        with_policy: Whether to measure with the shipped policy, too.
    """

    def __init__(self, trajectories: int, turns: int, repeats: int, with_policy: bool = True) -> None:
        self.tokenizer = load_tokenizer(POLICY)
        self.turns = turns
        self.repeats = repeats
        self.with_policy = with_policy
        texts = [f"Question: {row.values['question']}\n" for row in read_rows(QUESTIONS, limit=trajectories)]
        self.prompts = [
            Prompt(str(n), text, ("x",), prompt_ids=tuple(self.tokenizer.encode(text, add_special_tokens=False)))
            for n, text in enumerate(texts)
        ]

    def rollout(self, sampler: Sampler, tool: DelayedTool) -> Measured:
        """Measure rollouts."""
        limits = EpisodeLimits(action_tokens=32, observation_tokens=128, total_tokens=1024, turns=self.turns)
        collection = Collection(1, SamplingParams(temperature=0.0), limits, (0, 0))
        collector = RolloutCollector(sampler, self.tokenizer, TagProtocol(), [tool], ToolCallPolicy())
        trajectories = collector.collect(self.prompts, collection)
        calls = max(sum(turn.tool_s > tool.delay_s / 2 for turn in trajectory.turns) for trajectory in trajectories)
        seconds, cpu_s = self.medians(lambda: collector.collect(self.prompts, collection))
        collector.close()
        return Measured(seconds, cpu_s, calls, tool.most_at_once)

    def floor_ratio(self, delay_s: float, in_thread: bool) -> float:
        """Measured over ideal of tasks that only wait."""

        async def turns() -> None:
            for _ in range(self.turns):
                await wait(delay_s, in_thread)

        async def side_by_side() -> None:
            await asyncio.gather(*(turns() for _ in self.prompts))

        loop = BackgroundLoop()
        loop.run(side_by_side())  # warm-up
        seconds, _ = self.medians(lambda: loop.run(side_by_side()))
        loop.close()
        return seconds / (self.turns * delay_s)

    def medians(self, work: Callable[[], object]) -> tuple[float, float]:
        """Median wall time and processor time of some work, in seconds."""
        seconds, cpu_s = [], []
        for _ in range(self.repeats):
            started, cpu_started = time.perf_counter(), time.process_time()
            work()
            seconds.append(time.perf_counter() - started)
            cpu_s.append(time.process_time() - cpu_started)
        return statistics.median(seconds), statistics.median(cpu_s)

    def row(self, delay_s: float) -> str:
        """The ratios of measured to ideal, processor time, calls at once."""
        scripted = SearchingSampler(self.tokenizer)
        plain = self.rollout(scripted, DelayedTool(delay_s, in_thread=False))
        threads = self.rollout(scripted, DelayedTool(delay_s, in_thread=True))
        outlier = self.rollout(scripted, DelayedTool(delay_s, in_thread=False, first_takes=_OUTLIER))
        ratios = [self.floor_ratio(delay_s, in_thread=False), plain.seconds / (plain.calls * delay_s)]
        ratios += [self.floor_ratio(delay_s, in_thread=True), threads.seconds / (threads.calls * delay_s)]
        ratios.append(outlier.seconds / ((outlier.calls - 1 + _OUTLIER) * delay_s))
        ratios.append(self.policy_ratio(delay_s) if self.with_policy else math.nan)
        return " ".join(f"{ratio:7.2f}" for ratio in ratios) + f" {1000 * plain.cpu_s:6.1f} {plain.at_once:8d}"

    def policy_ratio(self, delay_s: float) -> float:
        """Measured over ideal with the shipped policy."""
        sampler = TransformersSampler(max_wait_s=60.0)
        model = AutoModelForCausalLM.from_pretrained(resolve_path(POLICY), dtype=torch.float32)
        sampler.attach(model, self.tokenizer)
        without = self.rollout(sampler, DelayedTool(0.0, in_thread=False))
        measured = self.rollout(sampler, DelayedTool(delay_s, in_thread=False))
        sampler.close()
        return (measured.seconds - without.seconds) / (measured.calls * delay_s)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trajectories", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--delays-ms", type=float, nargs="+", default=[10, 50, 100, 200])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-policy", action="store_true", help="only the scripted sampler: less noise and time")
    settings = parser.parse_args()
    asyncio.set_event_loop_policy(ExactTimers())
    torch.set_num_threads(1)
    disable_progress_bar()
    print("measured / ideal time of the tool part (1.00 is ideal)")
    columns = " ".join(f"{name:>7}" for name in ("floor", "async", "floor", "thread", "outlier", "policy"))
    print(f"{'':21} {columns} {'cpu ms':>6} {'at once':>8}")
    for trajectories in settings.trajectories:
        bench = Bench(trajectories, settings.turns, settings.repeats, not settings.without_policy)
        for delay in settings.delays_ms:
            print(f"{trajectories:12d} {delay:5.0f} ms {bench.row(delay / 1000)}", flush=True)


if __name__ == "__main__":
    main()
