"""Make the start policy of `conf/smollm2_search.yaml`: SmolLM2 that knows the form and mostly answers from memory.

Run from the repository root, after ``llds convert smollm2 models/smollm2-135m-instruct``::

    python -m tools.smollm2.warm_up DATA          # 25 minutes on two cores

Demonstrations are made by rule (`evidence.py`) from real training questions and what the configured retriever really
returns; no other model has a part in them. Each question is shown twice: answered after its searches, and answered from
memory, the latter somewhat more often. So the policy *can* search and read, and mostly does not: reinforcement learning
has behavior to select.

Writes ``policy/`` (the adapters merged in), ``demonstrations.jsonl``, ``train.jsonl`` (further questions with evidence,
for reinforcement learning) and ``test.jsonl`` (held-out ones, by the same rule). Left out of the first two: everything
about titles that a test question names. Left out of the last two: choices and yes or no, of which a guess answers half.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from llds.agent_tools.search import format_passages
from llds.batches.policy_batch import collate
from llds.callbacks import RetrievalCallback
from llds.cli.training.command import SearchAgentCLI, build_cli
from llds.data.source import DataSource
from llds.data.source_reader import read_prompts
from llds.modules.policy import LoRA
from llds.modules.policy.policy import Policy
from llds.retrieval import BM25Retriever, Retriever
from llds.retrieval.corpus import passage_content, read_corpus
from llds.rewards import contains_answer
from llds.rollout.observation import ObservationEncoder
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn
from tools.smollm2.evidence import Evidence, EvidenceFinder, Names, frequent

CONFIG = Path(__file__).parents[2] / "conf" / "smollm2_search.yaml"
TOOL = "search"
SEED = 0
RATE = 2e-3
QUESTIONS_PER_STEP = 8
FROM_MEMORY = 1.25
"""Demonstrations without a search for each one with."""
MOST_PASSAGES = 100
"""An answer that stands in more passages stands in most of them by chance."""
TESTS = ["r1searcher_hotpotqa_500.jsonl", "r1searcher_2wiki_500.jsonl"]
TEST_QUESTIONS = 300
OTHERS = ["nq", "tq", "popqa", "musique", "hotpotqa", "2wiki"]
"""Benchmarks of DeepResearcher's file that are trained on, too: more of their questions have passages in the corpus."""


@dataclass(frozen=True)
class Example:
    """A question with its evidence, and the gold answer that this shows."""

    prompt: Prompt
    evidence: Evidence
    answer: str

    def row(self) -> dict[str, Any]:
        """As a line of a file of questions."""
        return {
            "id": f"{self.prompt.data_source}-{self.prompt.prompt_id}",
            "question": self.prompt.question,
            "golden_answers": list(self.prompt.golden_answers),
            "data_source": self.evidence.kind,
            "queries": list(self.evidence.queries),
        }


class Agent:
    """Acts as the configuration has it: its prompt, its tags, its passages, its limits.

    Args:
        cli: The configuration, built.
        retriever: Open.
    """

    def __init__(self, cli: SearchAgentCLI, retriever: Retriever) -> None:
        config, module = cli.config, cli.model
        self.tokenizer: PreTrainedTokenizerBase = module.tokenizer  # type: ignore[union-attr]
        self.protocol = module.protocol  # type: ignore[union-attr]
        self.template = cli.datamodule.template  # type: ignore[union-attr]
        self.limits = config.rollout.limits
        self.retriever = retriever
        self.top_k = module.agent_tools[0].top_k  # type: ignore[union-attr, attr-defined]
        self.encoder = ObservationEncoder(self.tokenizer, self.protocol, [TOOL])
        self.observed = cache(self._observed)

    def _observed(self, query: str) -> tuple[int, ...]:
        [passages] = self.retriever.retrieve([query], self.top_k)
        text = self.protocol.observe(format_passages(passages), [TOOL])
        return tuple(self.encoder.encode(text, self.limits.observation_tokens).token_ids)

    def shown(self, query: str) -> str:
        """What the policy reads after a search; nothing after one that is too long for an action."""
        fits = len(self._action(TOOL, query)) <= self.limits.action_tokens
        return str(self.tokenizer.decode(list(self.observed(query)))) if fits else ""

    def answer(self, prompt: Prompt, evidence: Evidence) -> str | None:
        """The gold answer that the last search shows, the first one where they are compared; None if it is too long."""
        seen = self.shown(evidence.queries[-1])
        golds = prompt.golden_answers
        answer = next((gold for gold in golds if contains_answer(seen, gold)), golds[0])
        return answer if len(self._action("answer", answer)) <= self.limits.action_tokens else None

    def demonstration(self, prompt: Prompt, queries: Sequence[str], answer: str) -> Trajectory:
        """The trajectory that makes these searches and then gives the answer.

        Args:
            prompt: The question.
            queries: The searches, none of them to answer from memory.
            answer: One of its gold answers.
        """
        encoded = self.template.encode(prompt, self.tokenizer)
        trajectory = Trajectory(encoded, prompt.prompt_id, 0, SamplingParams())
        trajectory.turns = [self._turn(TOOL, query, list(self.observed(query))) for query in queries]
        trajectory.turns.append(self._turn("answer", answer, []))
        return trajectory

    def _turn(self, tag: str, content: str, observation: list[int]) -> Turn:
        ids = self._action(tag, content)
        kind: Any = "answer" if tag == "answer" else "tool"
        return Turn(ids, [0.0] * len(ids), "stop", Action(kind, tag, content), observation)

    def _action(self, tag: str, content: str) -> list[int]:
        return list(self.tokenizer.encode(f"<{tag}> {content}</{tag}>", add_special_tokens=False))


def examples(agent: Agent, prompts: Sequence[Prompt], held_out: set[str], names: Names) -> Iterator[Example]:
    """Questions for which the rule finds evidence, in random order, without those that name what a test question names.

    Args:
        agent: Searches.
        prompts: The questions.
        held_out: Names that test questions hold, and the test questions.
        names: The titles of the corpus.
    """
    finder = EvidenceFinder(names, agent.shown)
    for prompt in random.Random(SEED).sample(prompts, len(prompts)):  # noqa: S311 (not a secret)
        if not held_out & {prompt.question, *names.find(prompt.question)}:
            evidence = finder.find(prompt.question, prompt.golden_answers)
            answer = agent.answer(prompt, evidence) if evidence else None
            if evidence and answer and not held_out & {*evidence.queries}:
                yield Example(prompt, evidence, answer)


def without_guesses(found: Iterable[Example]) -> Iterator[Example]:
    """Those that are no comparisons: a guess at one is right half of the time, and no signal."""
    return (one for one in found if one.evidence.kind != "comparison")


def training_prompts(data_root: str, corpus: Path) -> list[Prompt]:
    """Questions of which an answer stands in the corpus, and in few of its passages; yes and no are answers, too."""
    sources = [
        DataSource(f"{data_root}/train/r1searcher_stage_2.jsonl", answers_in=str(corpus)),
        DataSource(f"{data_root}/questions/hipporag_hotpotqa_train.json", answers_in=str(corpus)),
        DataSource(f"{data_root}/questions/deepresearcher_test.parquet", answers_in=str(corpus), data_sources=OTHERS),
        DataSource(f"{data_root}/questions/r1searcher_musique_500.jsonl", answers_in=str(corpus)),
    ]
    # Two files may hold one question: what was demonstrated is not trained on again
    prompts = [*{prompt.question: prompt for source in sources for prompt in read_prompts(source)}.values()]
    answers = {prompt.golden_answers[0] for prompt in prompts} - {"yes", "no"}
    common = frequent(answers, (passage_content(passage) for passage in read_corpus(corpus)), MOST_PASSAGES)
    return [prompt for prompt in prompts if prompt.golden_answers[0] not in common]


def held_out_names(sources: Sequence[DataSource], names: Names) -> set[str]:
    """What no training question may be about: all questions of the test files, and the names in them."""
    whole = [replace(source, limit=None, answers_in=None) for source in sources]
    questions = [prompt.question for source in whole for prompt in read_prompts(source)]
    return {*questions} | {name for question in questions for name in names.find(question)}


def batches(agent: Agent, shown: Sequence[Example]) -> Iterator[list[Trajectory]]:
    """The demonstrations of a few questions at a time; those of one question share their prompt."""
    rng = random.Random(SEED)  # noqa: S311 (not a secret)
    for start in range(0, len(shown), QUESTIONS_PER_STEP):
        rows = []
        for one in shown[start : start + QUESTIONS_PER_STEP]:
            times = int(FROM_MEMORY + rng.random())
            rows += [agent.demonstration(one.prompt, one.evidence.queries, one.answer)]
            rows += [agent.demonstration(one.prompt, [], one.answer)] * times
        yield rows


def warm_up(policy: Policy, agent: Agent, shown: Sequence[Example]) -> None:
    """One pass over the demonstrations: mean cross-entropy over action tokens, a learning rate that rises and falls."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    steps, started = -(-len(shown) // QUESTIONS_PER_STEP), time.perf_counter()
    for step, rows in enumerate(batches(agent, shown)):
        batch = collate(rows)
        loss = -policy(batch).log_probs[batch.action_mask].mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 4, 1 - step / steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        told = f"step {step + 1} of {steps}: loss {float(loss.detach()):.3f}, gradient {float(norm):.2f}"
        print(f"{told}, {time.perf_counter() - started:.0f} s", flush=True)


def write_lines(path: Path, rows: Sequence[Example]) -> None:
    """Write questions, and say how many of which kind."""
    path.write_text("".join(json.dumps(one.row(), ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    kinds = Counter(one.evidence.kind for one in rows)
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    print(f"{path}: {len(rows)} questions ({told})", flush=True)


def write_questions(agent: Agent, retriever: BM25Retriever, options: argparse.Namespace) -> list[Example]:
    """Find evidence, write the three files of questions; returns those to demonstrate."""
    names = Names(passage.title for passage in read_corpus(retriever.corpus))
    tests = [DataSource(f"{options.data_root}/questions/{one}", answers_in=str(retriever.corpus)) for one in TESTS]
    prompts = training_prompts(options.data_root, retriever.corpus)
    found = examples(agent, prompts, held_out_names(tests, names), names)
    shown = list(islice(found, options.demonstrations))
    write_lines(options.output / "demonstrations.jsonl", shown)
    write_lines(options.output / "train.jsonl", list(islice(without_guesses(found), options.questions)))
    asked = [prompt for source in tests for prompt in read_prompts(source)]
    tested = without_guesses(examples(agent, asked, set(), names))
    write_lines(options.output / "test.jsonl", list(islice(tested, TEST_QUESTIONS)))
    return shown


def main() -> None:
    """Write the questions, warm up, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", help="folder with the public data (tools/public_data.py)")
    parser.add_argument("--model", default="models/smollm2-135m-instruct", help="folder that `llds convert` wrote")
    parser.add_argument("--output", type=Path, default=Path("runs/smollm2-start"))
    parser.add_argument("--index", help="folder of the retriever's index, instead of the configured one")
    parser.add_argument("--demonstrations", type=int, default=400, help="questions that are demonstrated")
    parser.add_argument("--questions", type=int, default=600, help="further questions for reinforcement learning")
    parser.add_argument("--threads", type=int, default=2, help="of torch: another number rounds to another policy")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    index = ["--retrieval.retriever.path", options.index] if options.index else []
    words = ["-c", str(CONFIG), "--data_root", options.data_root, "--model.policy", options.model, *index]
    cli = build_cli(words, run=False)
    [callback] = [one for one in cli.trainer.callbacks if isinstance(one, RetrievalCallback)]  # type: ignore[attr-defined]
    options.output.mkdir(parents=True, exist_ok=True)
    with cast(BM25Retriever, callback.retriever) as retriever:
        agent = Agent(cli, retriever)
        shown = write_questions(agent, retriever, options)
        policy = Policy(options.model, lora=LoRA(rank=16, alpha=32))
        warm_up(policy, agent, shown)
    policy.save_pretrained(options.output / "policy", agent.tokenizer)
    print(f"{options.output / 'policy'}: the start policy of {CONFIG.name}")


if __name__ == "__main__":
    main()
