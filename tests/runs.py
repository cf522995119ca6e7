"""Whole trainings that take a second: a tiny policy, a few questions, everything real but the world."""

import csv
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from transformers import LlamaConfig, LlamaForCausalLM

from llds.agent_tools import AgentTool
from llds.callbacks import IterationCheckpoint, IterationSignals, RolloutCallback, list_checkpoints
from llds.data import DataSource, PromptDataModule
from llds.data.template import PromptTemplate
from llds.losses import KLPenalty, LLDSPenalty
from llds.modules import Optimization, SearchAgentModule
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rewards import Reward
from llds.rollout import EpisodeLimits
from llds.samplers import Sampler
from llds.types import ToolResult, Trajectory
from tests.scripted_sampler import ScriptedSampler

POLICY = "llds:quickstart/policy"
_folders = ExitStack()
QUESTIONS = DataSource("llds:quickstart/train.jsonl", limit=12)
LIMITS = EpisodeLimits(action_tokens=24, observation_tokens=128, total_tokens=512, turns=2)


class Oracle(AgentTool):
    """A search tool that knows one sentence."""

    name = "search"
    description = "Searches."

    async def run(self, argument: str) -> ToolResult:
        """Return the sentence."""
        return ToolResult('Doc 1(Title: "Ghana") The demonym of Ghana is Ghanaian.', ("GH-demonym",))


class FirstIsRight(Reward):
    """Rewards the first trajectory of each group, so that every iteration has something to learn."""

    correct_from = 1.0

    def __call__(self, trajectory: Trajectory) -> float:
        """Score."""
        return float(trajectory.index % 4 == 0)


@cache
def tiny_policy() -> str:
    """Folder of a random model of one layer with the tokenizer of the shipped policy."""
    folder = _folders.enter_context(TemporaryDirectory())
    tokenizer = load_tokenizer(POLICY)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.1, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@dataclass
class Run:
    """A training and what came of it."""

    folder: Path
    trainer: pl.Trainer
    module: SearchAgentModule
    data: PromptDataModule

    def fit(self, resume: bool = False) -> "Run":
        """Train, from the last checkpoint if wanted."""
        path = str(list_checkpoints(self.folder)[-1]) if resume else None
        self.trainer.fit(self.module, datamodule=self.data, ckpt_path=path)
        return self

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Of the policy."""
        return {name: value.detach().clone() for name, value in self.module.policy.state_dict().items()}


def make_run(
    folder: Path,
    *callbacks: pl.Callback,
    iterations: int = 2,
    sampler: Sampler | None = None,
    rollout: dict[str, Any] | None = None,
    module: dict[str, Any] | None = None,
    validation: DataSource | None = None,
    tools: Sequence[AgentTool] | None = None,
    every: int = 1,
    agent: type[SearchAgentModule] = SearchAgentModule,
    **trainer: Any,
) -> Run:
    """Build a training of 2 prompts x 4 trajectories per iteration, with two optimizer steps."""
    settings: dict[str, Any] = {
        "policy": tiny_policy(),
        "kl_penalty": KLPenalty(0.01),
        "llds_penalty": LLDSPenalty(),
        "optimization": Optimization(learning_rate=1e-3, mini_batch_size=1, micro_batch_size=3),
        "agent_tools": list(tools) if tools is not None else [Oracle()],
    }
    template = PromptTemplate("Question: {question}\n")
    data = PromptDataModule(
        train=QUESTIONS, validation=validation, test=QUESTIONS, predict=QUESTIONS, batch_size=2, iterations=iterations,
        eval_batch_size=16, max_prompt_tokens=64, template=template,
    )  # fmt: skip
    roll: dict[str, Any] = {
        "group_size": 4,
        "reward": FirstIsRight(),
        "limits": LIMITS,
        "eval_limits": LIMITS,
        "sampler": sampler,
    }
    return Run(
        folder,
        pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_epochs=1,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=CSVLogger(folder, name="csv", flush_logs_every_n_steps=1),
            callbacks=[
                IterationSignals(),
                *callbacks,
                RolloutCallback(**(roll | (rollout or {}))),
                IterationCheckpoint(every),
            ],
            **({"num_sanity_val_steps": 0} | trainer),
        ),
        agent(**(settings | (module or {}))),
        data,
    )


def scripted(run_script: Callable[[int, int, int], str | Exception]) -> ScriptedSampler:
    """A sampler whose script also gets the iteration: (iteration, trajectory, turn)."""
    sampler = ScriptedSampler(load_tokenizer(POLICY), lambda trajectory, turn: "")
    seen: dict[tuple[int, int], int] = {}

    def script(trajectory: int, _: int) -> str | Exception:
        key = (sampler.policy_version, trajectory)
        seen[key] = seen.get(key, -1) + 1
        return run_script(sampler.policy_version, trajectory, seen[key])

    sampler.script = script
    return sampler


def answers(iteration: int, trajectory: int, turn: int) -> str:
    """Search once, then answer."""
    if turn == 0:
        return f"<search> demonym {trajectory} </search>"
    return f"<answer> {iteration} {trajectory} </answer>"


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of all CSV logs, in order, without times and empty cells."""
    found = []
    for version in sorted((folder / "csv").iterdir()):
        with (version / "metrics.csv").open() as file:
            found += [
                {key: value for key, value in row.items() if value and not key.startswith("time/")}
                for row in csv.DictReader(file)
            ]
    return found


def by_iteration(folder: Path) -> dict[str, dict[str, str]]:
    """The metrics of each iteration; of one that was logged twice, the last."""
    return {row["iteration"]: row for row in rows(folder) if "reward/mean" in row or "rollout/failed" in row}
