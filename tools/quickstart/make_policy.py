"""Make the quickstart's start policy: tokenizer, supervised warm-up, export to `llds/quickstart/policy/`.

Usage: ``python tools/quickstart/make_policy.py`` (about ten minutes on one core), or with ``--only imperfect`` to
repeat the last stage from the saved weights of the stage before. Seeds are fixed and one thread computes, so the same
machine makes the same weights.

Three stages. Drills: copy runs of random tokens, which polishes the circuit of `initial_weights.py`. Good conduct:
search for the right thing, go on to the second hop, copy the right span. Imperfect conduct: bad queries, stopping after
one hop, wrong spans. What is left is a policy that *can* do the right thing and mostly does not: reinforcement learning
has behaviour to select.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from initial_weights import set_copying_weights
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from demonstrations import Conduct, Demonstrator
from evaluate_policy import evaluate
from make_world import ASSETS, split_countries
from policy import name_pieces, new_policy, ordinary_tokens, train_tokenizer
from retrieval import ExactSearch, text_in_file
from warm_up import DemonstrationEncoder, Encoded, Trainer, batches, copying_drills
from world import read_countries

SEED = 0
DRAWN_AT_ONCE = 2048


@dataclass(frozen=True)
class Stage:
    """A part of the warm-up.

    Attributes:
        steps: Number of optimizer steps.
        batch_size: Sequences per step.
        scale: Factor on the learning rates.
        conduct: How the demonstrator behaves; None is for drills, which have no demonstrator.
        share_invented: Share of demonstrations about invented worlds.
    """

    steps: int
    batch_size: int
    scale: float
    conduct: Conduct | None = None
    share_invented: float = 0.0


STAGES = {
    "drills": Stage(60, 32, 1.0),
    "good": Stage(900, 48, 1.0, Conduct(), 0.75),
    "imperfect": Stage(300, 48, 0.3, Conduct(bad_query=0.35, stop_early=0.6, wrong_span=0.3), 0.6),
}


class WarmUp:
    """Runs stages one after another; each saves its weights, so that a later one can be repeated alone.

    Args:
        work: Folder for the weights between stages.
        tokenizer: Of the policy; None makes that of the form of tags.
    """

    def __init__(self, work: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
        self.work = work
        self.tokenizer = tokenizer or make_tokenizer()
        # The demonstrator's index embeds titles with their quotes: close to what rollouts search, and not the same.
        self.search = ExactSearch(ASSETS / "corpus.jsonl", text_of=text_in_file)
        self.evaluation_search = ExactSearch(ASSETS / "corpus.jsonl")
        self.encoder = DemonstrationEncoder(self.tokenizer)
        self.countries = split_countries(read_countries())["train"]

    def run(self, name: str) -> LlamaForCausalLM:
        """Run a stage from the weights of the stage before, save and return its model."""
        torch.manual_seed(SEED)
        model, names = new_policy(self.tokenizer), list(STAGES)
        if name == names[0]:
            set_copying_weights(model, SEED)
        else:
            model.load_state_dict(torch.load(self.work / f"{names[names.index(name) - 1]}.pt"))
        self.train(model, name, STAGES[name])
        self.work.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), self.work / f"{name}.pt")
        return model

    def train(self, model: LlamaForCausalLM, name: str, stage: Stage) -> None:
        """Take the steps of a stage."""
        trainer, started, average = Trainer(model), time.perf_counter(), 0.0
        for step, batch in enumerate(self._batches(stage)):
            loss = trainer.step(batch, step / stage.steps, stage.scale)
            average = loss if step == 0 else 0.97 * average + 0.03 * loss
            if (step + 1) % 50 == 0 or step + 1 == stage.steps:
                print(f"{name} {step + 1}: loss {average:.3f}, {time.perf_counter() - started:.0f} s", flush=True)

    def _batches(self, stage: Stage) -> Iterator[list[Encoded]]:
        rng = random.Random(SEED)  # noqa: S311 (not cryptography)
        if stage.conduct is None:
            tokens = ordinary_tokens(self.tokenizer)
            yield from (copying_drills(tokens, stage.batch_size, rng) for _ in range(stage.steps))
            return
        demonstrator = Demonstrator(self.countries, self.search, name_pieces(self.tokenizer), SEED)
        demonstrator.prefetch()
        left = stage.steps
        while left > 0:
            drawn = demonstrator.draw(DRAWN_AT_ONCE, stage.conduct, stage.share_invented)
            for batch in list(batches(self.encoder.encode(drawn), stage.batch_size, rng))[:left]:
                left -= 1
                yield batch

    def shipped(self, model: LlamaForCausalLM) -> LlamaForCausalLM:
        """The model as it ships: rounded to bfloat16, here in float32 again."""
        rounded = new_policy(self.tokenizer)
        rounded.load_state_dict({key: value.bfloat16().float() for key, value in model.state_dict().items()})
        return rounded.eval()

    def report(self, name: str, model: LlamaForCausalLM) -> None:
        """Print how the rounded model does on unseen countries, greedy and sampled."""
        for split, temperature in (("validation", 0.0), ("test", 0.0), ("test", 1.0)):
            torch.manual_seed(SEED)
            print(name, split, f"temperature {temperature:g}")
            results = evaluate(self.shipped(model), self.tokenizer, self.evaluation_search, split, temperature)
            print("\n".join(f"  {kind}: {result}" for kind, result in results.items()), flush=True)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the corpus and the training questions."""
    corpus = (ASSETS / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    questions = (ASSETS / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [text for line in corpus for text in json.loads(line)["contents"].split("\n")]
    texts += [json.loads(line)["question"] for line in questions] + ["\n\n"] * 50
    return train_tokenizer(texts)


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model (bfloat16) and tokenizer, readable for everybody."""
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def main() -> None:
    """Run the stages, print how well the good and the final one do, export the final one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ASSETS / "policy", help="folder to export to")
    parser.add_argument("--work", type=Path, default=Path("runs/quickstart-policy"), help="weights between stages")
    parser.add_argument("--only", choices=list(STAGES), help="run one stage, from the saved weights of the one before")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warm_up = WarmUp(arguments.work)
    for name in [arguments.only] if arguments.only else STAGES:
        model = warm_up.run(name)
        if STAGES[name].conduct is not None:
            warm_up.report(name, model)
        if name == list(STAGES)[-1]:
            export(model, warm_up.tokenizer, arguments.output)


if __name__ == "__main__":
    main()
