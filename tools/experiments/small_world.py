"""A small invented world for experiments: its passages and questions, and a policy that half knows how to search it.

    PYTHONPATH=tools/quickstart python tools/experiments/small_world.py      # about a minute on one core

Writes `runs/experiments/small/`: `corpus.jsonl`, `train.jsonl` and `policy/`, a Llama of about 0.1 M parameters. The
experiments use those in `tools/experiments/small/`: on another machine rounding makes another policy. The kinds of
facts, the questions, the demonstrations and the warm-up are those of the quickstart (`tools/quickstart`); only the
names are invented, and everything is smaller, so that a whole training takes half a minute on one core.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from initial_weights import set_copying_weights
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from demonstrations import Conduct, Demonstrator
from forms import TagForm
from make_world import Row, questions, write_jsonl
from policy import name_pieces, new_policy, ordinary_tokens, train_tokenizer
from retrieval import ExactSearch
from warm_up import DemonstrationEncoder, Trainer, batches, copying_drills
from world import Country, passages

FOLDER = Path("runs/experiments/small")
SEED = 20261125
FIELDS = ("capital", "currency", "region", "language")
COUNTRIES, PLACES = 60, 4
VOCABULARY, HIDDEN, LAYERS = 1024, 64, 2
BATCH_SIZE = 32
GOOD = Conduct()
IMPERFECT = Conduct(bad_query=0.2, stop_early=0.4, wrong_span=0.2)
"""What reinforcement learning has to select against."""

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def countries() -> list[Country]:
    """Countries whose every name is two or three invented syllables, no name twice."""
    rng = random.Random(SEED)  # noqa: S311 (not cryptography)
    syllables = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
    words = list(dict.fromkeys("".join(rng.choices(syllables, k=rng.choice((2, 3)))) for _ in range(5000)))
    names = iter(word.capitalize() for word in words)
    return [
        Country(
            code=f"C{number:02d}",
            name=next(names),
            facts={field: next(names) for field in FIELDS},
            places=(places := {next(names): "city" for _ in range(PLACES)}),
            bridges=tuple(places),
        )
        for number in range(COUNTRIES)
    ]


def write_world(folder: Path, known: list[Country]) -> None:
    """Write corpus and training questions."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus: list[Row] = [{"id": row.passage_id, "contents": row.contents} for row in passages(known)]
    write_jsonl(folder / "corpus.jsonl", corpus)
    write_jsonl(folder / "train.jsonl", questions("train", known))


def make_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the corpus and the questions."""
    rows = [json.loads(line) for name in ("corpus", "train") for line in (folder / f"{name}.jsonl").open()]
    texts = [text for row in rows for text in (row.get("contents") or row["question"]).split("\n")]
    form = TagForm()
    corrected = [form.protocol.correct(f"<{tag}>", form.tools) for tag in (*form.tools, form.protocol.answer_tag)]
    corrections = [text for one in corrected for text in (one.opening, one.body, one.closing)]
    return train_tokenizer([*texts, *[*corrections, "\n\n"] * 50], VOCABULARY)


class WarmUp:
    """Drills, good conduct, imperfect conduct, one after the other.

    Args:
        folder: Where the world is.
        known: Its countries.
        steps: Optimizer steps of the three stages.
    """

    def __init__(self, folder: Path, known: list[Country], steps: tuple[int, int, int]) -> None:
        self.tokenizer = make_tokenizer(folder)
        self.encoder = DemonstrationEncoder(self.tokenizer)
        search = ExactSearch(folder / "corpus.jsonl")
        self.demonstrator = Demonstrator(known, search, name_pieces(self.tokenizer), SEED)
        self.demonstrator.prefetch()
        self.steps = steps
        torch.manual_seed(SEED)
        self.model: LlamaForCausalLM = new_policy(self.tokenizer, HIDDEN, LAYERS)
        set_copying_weights(self.model, SEED)

    def run(self) -> LlamaForCausalLM:
        """Train the three stages; returns the model."""
        drills, good, imperfect = self.steps
        rng, trainer = random.Random(SEED), Trainer(self.model)  # noqa: S311
        tokens = ordinary_tokens(self.tokenizer)
        for step in range(drills):
            trainer.step(copying_drills(tokens, BATCH_SIZE, rng), step / drills)
        self._demonstrate(good, GOOD, 1.0)
        self._demonstrate(imperfect, IMPERFECT, 0.3)
        return self.model.eval()

    def _demonstrate(self, steps: int, conduct: Conduct, scale: float) -> None:
        rng, trainer = random.Random(SEED), Trainer(self.model)  # noqa: S311
        drawn = self.demonstrator.draw(steps * BATCH_SIZE + BATCH_SIZE, conduct, share_invented=0.5, share_two_hop=0.6)
        average = 0.0
        for step, batch in enumerate(list(batches(self.encoder.encode(drawn), BATCH_SIZE, rng))[:steps]):
            loss = trainer.step(batch, step / steps, scale)
            average = loss if step == 0 else 0.97 * average + 0.03 * loss
            if (step + 1) % 200 == 0:
                print(f"{step + 1} steps: loss {average:.3f}", flush=True)


def main() -> None:
    """Write the world, warm a policy up, save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write to")
    parser.add_argument("--steps", type=int, nargs=3, default=(50, 400, 120), help="of drills, good, imperfect conduct")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = countries()
    write_world(arguments.output, known)
    warm_up = WarmUp(arguments.output, known, tuple(arguments.steps))
    model = warm_up.run()
    model.save_pretrained(arguments.output / "policy")
    warm_up.tokenizer.save_pretrained(arguments.output / "policy")
    print(f"{sum(value.numel() for value in model.parameters())} parameters in {arguments.output / 'policy'}")


if __name__ == "__main__":
    main()
