"""Record short trainings of the quickstart with a fault switched on, for tests of what the detector says of them.

    python tools/record_faults.py                                  # all that are not there yet; half a minute each
    python tools/record_faults.py --faults "stale weights" --seeds 0
    python tools/evaluate_detector.py --half all --recorded-only tests/recordings/faults

Real trainings (the policy that ships, real search, real updates) of 36 trajectories an iteration, in which one thing
breaks, from an iteration on or from the start. The study `tests/recordings/faults` (`tools/study.py`) keeps the signals
of each iteration, and the cause that must be named; that of a run without a fault is `healthy`.
"""

import argparse
import copy
import logging
import random
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from study import CAUSE, Study
from torch import Tensor

from llds.agent_tools import SearchTool
from llds.callbacks import IterationSignals, RetrievalCallback, RolloutCallback
from llds.data import PromptDataModule, PromptLoader
from llds.data.template import PromptTemplate
from llds.errors import RetrievalError
from llds.losses import LLDSPenalty
from llds.modules import Optimization, SearchAgentModule
from llds.retrieval import ChromaRetriever, Passage
from llds.rewards import ExactMatchReward, Reward
from llds.rollout import EpisodeLimits, TagProtocol, ToolCallPolicy
from llds.samplers import SampleRequest, TransformersSampler
from llds.types import Completion, Trajectory

STUDY = Path(__file__).parents[1] / "tests" / "recordings" / "faults"
INDEX = Path(tempfile.gettempdir()) / "llds-recordings-index"
ITERATIONS = 20
START = 9
"""Iterations before a fault that does not begin with the run."""


class Clock(pl.Callback):
    """Tells the others which iteration it is."""

    iteration = 0

    @property
    def is_late(self) -> bool:
        """Whether a late fault has begun."""
        return self.iteration >= START

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: SearchAgentModule, *_: object) -> None:
        """Count."""
        self.iteration = pl_module.iteration


class Recorder(pl.Callback):
    """Keeps the metrics of each iteration; the last of the callbacks."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule, *args: Any) -> None:
        """Keep them."""
        values = {name: value for name, value in args[1].metrics.items() if not name.startswith(("time/", "collapse/"))}
        self.rows.append({"iteration": pl_module.iteration} | values)


# What breaks


class OtherTemperature(TransformersSampler):
    """Samples at another temperature than it is told."""

    async def sample(self, request: SampleRequest) -> Completion:
        """Sample."""
        return await super().sample(replace(request, sampling=replace(request.sampling, temperature=1.15)))


class OwnCopy(TransformersSampler):
    """Samples with weights of its own, which updates reach as the subclass wants."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(max_wait_s=60.0)
        self.clock = clock

    def attach(self, model: Any, tokenizer: Any, forward_context: Any, is_live: bool = True) -> None:
        """Take a copy."""
        super().attach(copy.deepcopy(model).requires_grad_(False), tokenizer, forward_context, is_live=False)

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take the weights, as `received` lets them through."""
        super().update_weights(((name, self.received(value)) for name, value in weights), version)

    def received(self, value: Tensor) -> Tensor:
        """What arrives of a tensor."""
        return value


class SixBits(OwnCopy):
    """Holds its weights in 6 bits, one scale for each tensor."""

    def received(self, value: Tensor) -> Tensor:
        """Round."""
        scale = value.abs().max() / 31
        return (value / scale).round() * scale


class Deaf(OwnCopy):
    """Gets no update any more, and says that it did."""

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Note the version alone, late in the run."""
        if self.clock.iteration < 4:
            super().update_weights(weights, version)
        self.policy_version = version


class Unreliable(ChromaRetriever):
    """A retriever with an outage.

    Args:
        clock: When.
        how: What it does then.
    """

    def __init__(self, clock: Clock, how: Callable[[list[str], list[list[Passage]]], list[list[Passage]]]) -> None:
        super().__init__(path=str(INDEX), corpus="llds:quickstart/corpus.jsonl")
        self.clock, self.how = clock, how

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Search, or not."""
        found = super().retrieve(queries, top_k)
        return self.how(queries, found) if self.clock.is_late else found


def fails(queries: list[str], found: list[list[Passage]]) -> list[list[Passage]]:
    """Every fourth call."""
    if random.random() < 0.25:  # noqa: S311 (not a secret)
        raise RetrievalError("the retriever is down")
    return found


def finds_nothing(queries: list[str], found: list[list[Passage]]) -> list[list[Passage]]:
    """An empty index."""
    return [[] for _ in queries]


def finds_other_things(queries: list[str], found: list[list[Passage]]) -> list[list[Passage]]:
    """An index whose passages are not where their vectors are: each query gets another one's."""
    shifted = found[1:] + found[:1]
    return shifted if len(found) > 1 else [[] for _ in queries]


class Scored(Reward):
    """Exact match, until something else is given.

    Args:
        clock: When.
        how: The reward then.
        from_the_start: Whether it is never exact match.
    """

    def __init__(self, clock: Clock, how: Callable[[Trajectory], float], from_the_start: bool = False) -> None:
        self.clock, self.how, self.from_the_start = clock, how, from_the_start
        self.exact = ExactMatchReward()
        self.correct_from = 1.0

    def __call__(self, trajectory: Trajectory) -> float:
        """Score."""
        return self.how(trajectory) if self.from_the_start or self.clock.is_late else self.exact(trajectory)


def coin(trajectory: Trajectory) -> float:
    """0 or 1, whatever the agent did."""
    return float(random.Random(f"{trajectory.group_id} {trajectory.index}").random() < 0.5)  # noqa: S311


class Late(pl.Callback):
    """Does something to the run before each late iteration."""

    def __init__(self, clock: Clock, what: Callable[[pl.Trainer, SearchAgentModule], None]) -> None:
        self.clock, self.what = clock, what

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule, *_: object) -> None:
        """Do it."""
        if pl_module.iteration >= START:
            self.what(trainer, pl_module)


def raise_learning_rate(trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
    """Thirty times, once."""
    if pl_module.iteration == START:
        scheduler: Any = pl_module.lr_schedulers()
        scheduler.base_lrs = [30 * rate for rate in scheduler.base_lrs]
        for group in scheduler.optimizer.param_groups:
            group["lr"] *= 30


def begin_again(trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
    """The loader forgets where it is."""
    loader = trainer.train_dataloader
    assert isinstance(loader, PromptLoader)  # noqa: S101
    loader.position = 0


def cut_actions(trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
    """An action's limit of tokens is far too low."""
    [rollout] = [one for one in trainer.callbacks if isinstance(one, RolloutCallback)]  # type: ignore[attr-defined]
    rollout.limits = replace(rollout.limits, action_tokens=6)


def rename_answer(trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
    """The parser looks for another tag than the policy writes."""
    assert isinstance(pl_module.protocol, TagProtocol)  # noqa: S101
    pl_module.protocol.answer_tag = "final"


@dataclass
class Parts:
    """What a training is made of, so that a fault can replace it."""

    clock: Clock = field(default_factory=Clock)
    sampler: TransformersSampler = field(default_factory=lambda: TransformersSampler(max_wait_s=60.0))
    reward: Reward = field(default_factory=ExactMatchReward)
    retriever: ChromaRetriever | None = None
    callbacks: list[pl.Callback] = field(default_factory=list)
    learning_rate: float = 2e-4
    llds: float = 0.2


def _late(what: Callable[[pl.Trainer, SearchAgentModule], None]) -> Callable[[Parts], None]:
    return lambda parts: parts.callbacks.append(Late(parts.clock, what))


def _set(name: str, make: Callable[[Parts], Any]) -> Callable[[Parts], None]:
    return lambda parts: setattr(parts, name, make(parts))


FAULTS: dict[str, tuple[str, Callable[[Parts], None]]] = {
    "none": ("healthy", lambda parts: None),
    "other temperature": ("sampler_mismatch", _set("sampler", lambda parts: OtherTemperature(max_wait_s=60.0))),
    "6-bit sampler": ("sampler_mismatch", _set("sampler", lambda parts: SixBits(parts.clock))),
    "stale weights": ("stale_weights", _set("sampler", lambda parts: Deaf(parts.clock))),
    "failing retriever": ("retriever_outage", _set("retriever", lambda parts: Unreliable(parts.clock, fails))),
    "empty index": ("retriever_outage", _set("retriever", lambda parts: Unreliable(parts.clock, finds_nothing))),
    "wrong passages": (
        "retriever_outage",
        _set("retriever", lambda parts: Unreliable(parts.clock, finds_other_things)),
    ),
    "reward 0": ("broken_reward", _set("reward", lambda parts: Scored(parts.clock, lambda _: 0.0))),
    "reward 1": ("broken_reward", _set("reward", lambda parts: Scored(parts.clock, lambda _: 1.0))),
    "coin": ("broken_reward", _set("reward", lambda parts: Scored(parts.clock, coin, from_the_start=True))),
    "late coin": ("broken_reward", _set("reward", lambda parts: Scored(parts.clock, coin))),
    "cut actions": ("format_break", _late(cut_actions)),
    "other tag": ("format_break", _late(rename_answer)),
    "learning rate x 30": ("optimizer_blow_up", _late(raise_learning_rate)),
    "same prompts": ("data_repeating", _late(begin_again)),
}
"""What breaks, the cause that must be named, and how."""


def record(fault: str, seed: int) -> list[dict[str, float]]:
    """Train with a fault; returns the signals of each iteration."""
    parts = Parts()
    FAULTS[fault][1](parts)
    random.seed(seed)
    limits = EpisodeLimits(action_tokens=32, observation_tokens=160, total_tokens=512, turns=3)
    rollout = RolloutCallback(
        group_size=6,
        sampler=parts.sampler,
        reward=parts.reward,
        limits=limits,
        eval_limits=limits,
        tool_calls=ToolCallPolicy(max_retries=0),
        max_failed=1.0,
        seed=seed,
    )
    retriever = parts.retriever or ChromaRetriever(path=str(INDEX), corpus="llds:quickstart/corpus.jsonl")
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[
                parts.clock, rollout, RetrievalCallback(retriever), IterationSignals(), *parts.callbacks, recorder
            ],
        )  # fmt: skip
        agent = SearchAgentModule(
            "llds:quickstart/policy",
            llds_penalty=LLDSPenalty(coefficient=parts.llds),
            agent_tools=[SearchTool(top_k=2)],
            optimization=Optimization(learning_rate=parts.learning_rate, mini_batch_size=2, micro_batch_size=36),
            seed=seed,
        )
        data = PromptDataModule(
            train="llds:quickstart/train.jsonl",
            batch_size=6,
            iterations=ITERATIONS,
            max_prompt_tokens=64,
            template=PromptTemplate("Question: {question}\n"),
            seed=seed,
        )
        torch.manual_seed(seed)
        trainer.fit(agent, datamodule=data)
    return recorder.rows


def main() -> None:
    """Record what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, default=STUDY, help="the study")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="lightning|transformers|torch")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    study = Study.at(options.output)
    for seed in options.seeds:
        for fault in options.faults:
            name = f"{fault.replace(' ', '_')}-seed{seed}"
            if not study.has(name):
                rows = record(fault, seed)
                study.add(name, [row | {CAUSE: FAULTS[fault][0]} for row in rows])
                rewards = " ".join(f"{row['reward/mean']:.2f}" for row in rows)
                print(f"{FAULTS[fault][0]}/{name}: {rewards}", flush=True)
    study.pack()


if __name__ == "__main__":
    main()
