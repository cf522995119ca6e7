"""The per-sample LLD probe: would an update on a question lower the likelihood of its own correct responses?

Equation 3 and figure 3a of arXiv 2512.04220 v2, with the quantity G of its theorem A.2 on the same samples. Between two
iterations, from the weights of that moment; afterwards weights, optimizer and random numbers are what they were, bit by
bit, so that a run with the probe is the run without it.

Left out on purpose: what is measured on a question (`llds.probes.QuestionProbe`).
"""

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from llds.batches import RolloutBatch
from llds.callbacks.rollout.callback import RolloutCallback
from llds.data import PromptDataModule
from llds.errors import ConfigurationError
from llds.metrics import by_group
from llds.modules import SearchAgentModule
from llds.probes import (
    Probe,
    ProbedQuestion,
    QuestionProbe,
    Trial,
    TrialOptimizer,
    TrialUpdates,
    probe_folder,
    write_probe,
)
from llds.strategies import ZeRO3Strategy, rank, together, world_size
from llds.types import Prompt, Trajectory


class LLDProbe(pl.Callback):
    """Writes ``probes/iteration-000000/`` (probe.json, questions.csv, actions.csv) every few iterations.

    It costs a rollout of all its questions, and per question with right and wrong answers one update and three
    forwards. Logs ``probe/share_negative``, ``probe/mean_change`` and others beside the iteration that follows.

    Args:
        every_n_iterations: Iterations between two probes; the first is taken before the first iteration.
        questions: Questions to roll out, the same each time; only those with right and wrong answers count.
        rollouts: Trajectories of each question.
        source: Which questions: those of ``data.validation`` or of ``data.train``.
        optimizer: Which optimizer makes the update: ``run`` (the run's with its moments: what training would do),
            ``fresh`` (the same without moments) or ``sgd``.
        learning_rate: Of the update; null is the run's ``model.optimization.learning_rate``.
        steps: Optimizer steps per question. The LLDS penalty is 0 in the first.
        use_llds: Whether the loss keeps the run's LLDS penalty.
        label: Added to the folder's name, to tell apart several probes of one iteration.
        seed: Of the choice of questions and of their rollouts.

    Attributes:
        last: The newest probe; None before the first.

    Raises:
        ConfigurationError: If a value is out of its range.
    """

    def __init__(
        self,
        every_n_iterations: int = 50,
        questions: int = 50,
        rollouts: int = 8,
        source: Literal["validation", "train"] = "validation",
        optimizer: TrialOptimizer = "run",
        learning_rate: float | None = None,
        steps: int = 1,
        use_llds: bool = True,
        label: str = "",
        seed: int = 0,
    ) -> None:
        _check_range("every_n_iterations", every_n_iterations, 1)
        _check_range("questions", questions, 1)
        _check_range("rollouts", rollouts, 2)
        _check_range("steps", steps, 1)
        _check_range("seed", seed, 0)
        if learning_rate is not None and not 0 <= learning_rate < float("inf"):
            raise ConfigurationError(f"Expected `LLDProbe` to have learning_rate >= 0, got {learning_rate}.")
        if label != Path(label).name or label.startswith("."):
            raise ConfigurationError(f"Expected `LLDProbe` to have a label that can end a folder's name, got {label}.")
        self.every_n_iterations = every_n_iterations
        self.questions = questions
        self.rollouts = rollouts
        self.source = source
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.steps = steps
        self.use_llds = use_llds
        self.label = label
        self.seed = seed
        self.last: Probe | None = None

    def setup(self, trainer: pl.Trainer, pl_module: SearchAgentModule, stage: str) -> None:
        """Check that it can work here.

        Raises:
            ConfigurationError: If the parameters are in parts, it comes after the rollout, or there are no questions.
        """
        if stage != "fit":
            return
        if isinstance(trainer.strategy, ZeRO3Strategy):
            raise ConfigurationError(
                "Expected `LLDProbe` in a run whose ranks hold the whole policy, got ZeRO-3, under which no rank can "
                "try an update. Probe a checkpoint instead: llds export, then `llds probe "
                "--model.policy FOLDER` without the strategy (the moments of the optimizer are lost: optimizer fresh)."
            )
        order = [one for one in trainer.callbacks if one is self or isinstance(one, RolloutCallback)]  # type: ignore[attr-defined]
        if order[0] is not self or len(order) == 1:
            raise ConfigurationError(
                "Expected `LLDProbe` before `RolloutCallback` among the callbacks, so that it leaves an iteration's "
                "rollouts alone, got it after, or no rollout. Change their order."
            )
        data = cast(PromptDataModule, trainer.datamodule)  # type: ignore[attr-defined]
        if self.source not in data.prompts:
            raise ConfigurationError(
                f"Expected `data.{self.source}` to name questions for `LLDProbe`, got nothing. Set it, or probe the "
                "training questions (source: train)."
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Probe the policy before the iteration, if it is due."""
        if pl_module.iteration % self.every_n_iterations == 0:
            started = time.perf_counter()
            is_done = self.last is not None and self.last.iteration == pl_module.iteration
            probe = self.last if self.last and is_done else self.probe(trainer, pl_module)
            batch.metrics.hand_in("probe", probe.metrics())
            batch.timings["probe"] = time.perf_counter() - started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Probe the policy after the last iteration, if it is due; before the run's report is written."""
        if pl_module.iteration % self.every_n_iterations == 0:
            self.probe(trainer, pl_module)

    def probe(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> Probe:
        """Probe the present policy and write what was found; every rank must call.

        Args:
            trainer: Of a `fit` that has begun.
            pl_module: Its module.
        """
        data = cast(PromptDataModule, trainer.datamodule)  # type: ignore[attr-defined]
        with isolate_rng():
            self.last = self._measure(pl_module, self._rollout(trainer), self._prompts(data, pl_module))
        if trainer.is_global_zero:
            folder = probe_folder(trainer.default_root_dir, pl_module.iteration, self.label)
            write_probe(self.last, folder)
            rank_zero_info(f"Probe: {folder} ({_in_words(self.last)})")
        return self.last

    def _measure(self, module: SearchAgentModule, rollout: RolloutCallback, prompts: list[Prompt]) -> Probe:
        started = time.perf_counter()
        sampled = rollout.sample(module, prompts, self.rollouts, (self.seed,))
        groups = [group for group in by_group(sampled).values() if _is_informative(group)]
        rolled_out = time.perf_counter()
        found = self._questions(module, rollout, groups) if groups else []
        seconds = {"rollout": rolled_out - started, "updates": time.perf_counter() - rolled_out}
        return Probe(module.iteration, len(prompts), self._settings(module), found, seconds)

    def _questions(
        self, module: SearchAgentModule, rollout: RolloutCallback, groups: list[list[Trajectory]]
    ) -> list[ProbedQuestion]:
        """Measure them, each rank its share."""
        batch = rollout.tensors(module, [one for group in groups for one in group])
        question = QuestionProbe(module, TrialUpdates(module, self._trial(module)))

        def share() -> list[tuple[int, ProbedQuestion]]:
            return [
                (number, question.measure(groups[number], batch.rows((batch.groups == number).nonzero()[:, 0])))
                for number in range(rank(), len(groups), world_size())
            ]

        found = dict(pair for of_rank in together(share) for pair in of_rank)
        return [found[number] for number in range(len(groups))]

    def _trial(self, module: SearchAgentModule) -> Trial:
        objective = module.objective if self.use_llds else replace(module.objective, llds_penalty=None)
        return Trial(objective, self.optimizer, self._rate(module), self.steps)

    def _rate(self, module: SearchAgentModule) -> float:
        return module.optimization.learning_rate if self.learning_rate is None else self.learning_rate

    def _settings(self, module: SearchAgentModule) -> dict[str, Any]:
        names = ("questions", "rollouts", "source", "optimizer", "steps", "use_llds", "seed")
        return {name: vars(self)[name] for name in names} | {"learning_rate": self._rate(module)}

    def _prompts(self, data: PromptDataModule, module: SearchAgentModule) -> list[Prompt]:
        """The questions, the same in every probe, in the order of the file."""
        prompts = data.prompts[self.source]
        count = min(self.questions, len(prompts))
        chosen = sorted(random.Random(self.seed).sample(range(len(prompts)), count))  # noqa: S311 (no secret)
        return data.template.encode_batch([prompts[index] for index in chosen], module.tokenizer)

    def _rollout(self, trainer: pl.Trainer) -> RolloutCallback:
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        return next(callback for callback in callbacks if isinstance(callback, RolloutCallback))


def _is_informative(group: list[Trajectory]) -> bool:
    """Whether it has right and wrong trajectories, and each has something to train on."""
    kinds = {trajectory.is_correct for trajectory in group}
    return len(kinds) == 2 and all(any(turn.action_ids for turn in one.turns) for one in group)


def _in_words(probe: Probe) -> str:
    if probe.share_negative is None:
        return f"none of {probe.asked} questions has right and wrong answers"
    return (
        f"{probe.share_negative:.0%} of {len(probe.questions)} questions with right and wrong answers lost likelihood"
        f"{', as in phase III' if probe.is_phase_iii else ''}"
    )


def _check_range(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigurationError(f"Expected `LLDProbe` to have {name} >= {least}, got {value}.")
