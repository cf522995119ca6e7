"""The two tasks of the experiments and a training on them, made of the components that `llds fit` makes.

`small`: the invented world of `small_world.py`, whose search engine returns passages that have nothing to do with the
query in a share of its answers, so that right searches often end in a reward of 0. `quickstart`: the agent that ships.
"""

import logging
import random
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from llds.agent_tools import AgentTool, SearchTool
from llds.agent_tools.search import format_passages
from llds.callbacks import IterationSignals, RetrievalCallback, RolloutCallback
from llds.data import PromptDataModule
from llds.data.template import PromptTemplate
from llds.losses import KLPenalty, LLDSPenalty
from llds.modules import Optimization, SearchAgentModule
from llds.paths import resolve_path
from llds.retrieval import ChromaRetriever
from llds.retrieval.corpus import read_corpus
from llds.rewards import Reward
from llds.rollout import EpisodeLimits
from llds.samplers import TransformersSampler
from llds.types import ToolResult, Trajectory

RUNS = Path("runs/experiments")
SMALL_WORLD = Path("tools/experiments/small")
"""Kept with the code: a warm-up on another machine rounds otherwise, and its policy's runs compare with no others."""
WARM_UP = 3
"""Iterations in which the learning rate rises: without, Adam's first steps alone can end a run."""


class NoisySearchTool(SearchTool):
    """A search tool that answers a share of its calls with passages that have nothing to do with the query.

    Whether a call is answered so depends on the seed, the iteration, the query, and how often it was asked before.

    Args:
        noise: Share of such calls, 0-1.
        corpus: The corpus file that they come from.
        top_k: Passages per query.
        seed: Of the noise.
    """

    def __init__(self, noise: float, corpus: str, top_k: int, seed: int) -> None:
        super().__init__(top_k)
        self.noise = noise
        self.seed = seed
        self._corpus = list(read_corpus(resolve_path(corpus)))
        self._iteration_number = 0
        self._times_asked: Counter[str] = Counter()

    def begin_iteration(self) -> None:
        """Count the iteration."""
        super().begin_iteration()
        self._iteration_number += 1
        self._times_asked = Counter()

    async def run(self, argument: str) -> ToolResult:
        """Search, or return something else."""
        self._times_asked[argument] += 1
        draw = random.Random(f"{self.seed} {self._iteration_number} {argument} {self._times_asked[argument]}")  # noqa: S311
        if draw.random() >= self.noise:
            return await super().run(argument)
        passages = draw.sample(self._corpus, self.top_k)
        return ToolResult(format_passages(passages), tuple(passage.document_id for passage in passages))


class RandomReward(Reward):
    """A coin: nothing can be learned, and what changes in the policy is damage.

    Args:
        seed: Of the coin.
    """

    correct_from = 1.0

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, trajectory: Trajectory) -> float:
        """Return 0 or 1, whatever the agent did."""
        return float(random.Random(f"{self.seed} {trajectory.group_id} {trajectory.index}").random() < 0.5)  # noqa: S311


@dataclass(frozen=True)
class Task:
    """A policy, its questions and its world.

    Attributes:
        name: Of its records.
        policy: The start policy.
        train: Questions.
        corpus: Passages.
        noise: Share of searches that return passages that have nothing to do with the query.
        prompts: Per iteration.
        group_size: Trajectories per prompt.
        mini_batch_size: Prompts per optimizer step.
        limits: Of an episode.
        share_prefixes: As in `SearchAgentModule`: changes the speed, not the result.
    """

    name: str
    policy: str
    train: str
    corpus: str
    noise: float
    prompts: int
    group_size: int
    mini_batch_size: int
    limits: EpisodeLimits
    share_prefixes: bool = True


SMALL = Task(
    "small",
    str(SMALL_WORLD / "policy"),
    str(SMALL_WORLD / "train.jsonl"),
    str(SMALL_WORLD / "corpus.jsonl"),
    noise=0.3,
    prompts=8,
    group_size=5,
    mini_batch_size=1,
    limits=EpisodeLimits(action_tokens=12, observation_tokens=64, total_tokens=300, turns=2),
    share_prefixes=False,
)
WIDE = replace(SMALL, name="wide", prompts=32, mini_batch_size=4)
"""The same with four times as many trajectories an iteration: less noise, and a slow fall as in the paper."""
QUICKSTART = Task(
    "quickstart",
    "llds:quickstart/policy",
    "llds:quickstart/train.jsonl",
    "llds:quickstart/corpus.jsonl",
    noise=0.0,
    prompts=12,
    group_size=5,
    mini_batch_size=2,
    limits=EpisodeLimits(action_tokens=32, observation_tokens=160, total_tokens=512, turns=3),
)
TASKS = {task.name: task for task in (SMALL, WIDE, QUICKSTART)}


@dataclass(frozen=True)
class Settings:
    """What distinguishes a training from another one of the same task.

    Attributes:
        learning_rate: Constant after the warm-up.
        llds: Arguments of the LLDS penalty; ``coefficient`` is lambda.
        iterations: Length.
        seed: Of prompts, sampling, mini-batches and noise.
        kl: Coefficient of the KL penalty.
        reward: None is exact match.
        rescored_share: Of `IterationSignals`; changes what is measured, not the training.
        unsampled: Whether it measures observations and control tokens too; changes nothing of the training either.
        module: Further arguments of the module, such as another policy loss.
    """

    learning_rate: float
    llds: dict[str, Any]
    iterations: int
    seed: int
    kl: float = 0.0
    reward: Reward | None = None
    rescored_share: float = 1.0
    unsampled: bool = False
    module: Mapping[str, Any] = field(default_factory=dict)


class Agent(SearchAgentModule):
    """The agent as it is, without Lightning's own copy of the metrics: it takes a tenth of an iteration so small."""

    def log_dict(self, *_: Any, **__: Any) -> None:
        """Nobody monitors a metric through Lightning here."""


def make_agent(task: Task, settings: Settings) -> SearchAgentModule:
    """The module."""
    tools: list[AgentTool] = [
        NoisySearchTool(task.noise, task.corpus, 2, settings.seed) if task.noise else SearchTool(top_k=2)
    ]
    return Agent(
        task.policy,
        kl_penalty=KLPenalty(settings.kl) if settings.kl else None,
        llds_penalty=LLDSPenalty(**settings.llds),
        agent_tools=tools,
        optimization=Optimization(
            learning_rate=settings.learning_rate,
            warmup_ratio=WARM_UP / settings.iterations,
            mini_batch_size=task.mini_batch_size,
            micro_batch_size=64,
        ),
        share_prefixes=task.share_prefixes,
        seed=settings.seed,
        **settings.module,
    )


def train(
    task: Task, settings: Settings, callbacks: Sequence[pl.Callback], folder: Path = RUNS / "work"
) -> SearchAgentModule:
    """Train, quietly; the callbacks see each iteration after it was rolled out, and again after it was trained on."""
    warnings.filterwarnings("ignore", module="lightning|transformers|torch")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    data = PromptDataModule(
        train=task.train,
        batch_size=task.prompts,
        iterations=settings.iterations,
        max_prompt_tokens=64,
        template=PromptTemplate("Question: {question}\n"),
        seed=settings.seed,
    )
    rollout = RolloutCallback(
        group_size=task.group_size,
        sampler=TransformersSampler(max_wait_s=60.0),  # far above a search's latency: runs repeat to the bit
        reward=settings.reward,
        limits=task.limits,
        eval_limits=task.limits,
        seed=settings.seed,
    )
    retrieval = RetrievalCallback(ChromaRetriever(str(RUNS / f"{task.name}-index"), task.corpus))
    signals = IterationSignals(settings.rescored_share, settings.unsampled, settings.unsampled)
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=any(isinstance(one, Checkpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[rollout, retrieval, signals, *callbacks],
    )
    agent = make_agent(task, settings)
    torch.manual_seed(settings.seed)
    trainer.fit(agent, datamodule=data)
    return agent
