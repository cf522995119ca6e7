"""Study 1, paired displacement: the same weights, optimizer state and rollouts; only the loss differs.

    python -m tools.experiments.paired small --learning-rate 1e-3 --seeds 0 1 2 3 --at 2 6 10 15 20 30

A training without LLDS is stopped at several of its iterations, after the rollout. There each variant of the loss makes
the iteration's updates from the same state; then all responses are scored again, and the state is put back, to the
bit. So a variant's difference to plain GRPO is due to the loss alone. At the same places, `--probe` measures the
paper's per-sample probe (arXiv 2512.04220 v2, eq. 3, fig. 3a): one GRPO update on one question.

Adds to the studies `records/paired` (a row for each place and variant) and `records/probe` (a row for each place and
question); runs that are there already are passed over.
"""

import argparse
import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from llds.batches import PolicyBatch, RolloutBatch
from llds.losses import GRPOLoss, LLDSPenalty
from llds.metrics import displacement_metrics, has_answer
from llds.modules import SearchAgentModule
from llds.modules.anchor import LaggedAnchor
from llds.types import Trajectory
from tools.experiments.recording import RECORDS, FixedSet, Row, correct_trajectories, mean_log_likelihood
from tools.experiments.tasks import TASKS, Settings, train
from tools.study import Study

LAG = 4
FROZEN = 10**6


@dataclass(frozen=True)
class Variant:
    """A loss.

    Attributes:
        name: Of its rows.
        llds: Arguments of the LLDS penalty.
        policy: Arguments of the GRPO loss.
        rate: Factor on the learning rate.
    """

    name: str
    llds: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    rate: float = 1.0


VARIANTS = (
    Variant("lambda 0", {"coefficient": 0.0}),
    Variant("lambda 0.01", {"coefficient": 0.01}),
    Variant("lambda 0.1", {"coefficient": 0.1}),
    Variant("lambda 0.2", {"coefficient": 0.2}),
    Variant("lambda 1", {"coefficient": 1.0}),
    Variant("lambda 5", {"coefficient": 5.0}),
    Variant("token gate", {"gate": "token"}),
    Variant("response gate", {"gate": "response"}),
    Variant("token aggregation", {"aggregation": "token"}),
    Variant("preserve positive", {"preserve": "positive"}),
    Variant("lambda 1, preserve positive", {"coefficient": 1.0, "preserve": "positive"}),
    Variant("lagged anchor", {"anchor": "lagged", "anchor_lag": LAG}),
    Variant("frozen anchor", {"anchor": "lagged", "anchor_lag": FROZEN}),
    Variant("lambda 0, half the learning rate", {"coefficient": 0.0}, rate=0.5),
    Variant("lambda 0, a quarter of the learning rate", {"coefficient": 0.0}, rate=0.25),
    Variant("lambda 0, GRPO token aggregation", {"coefficient": 0.0}, {"aggregation": "token"}),
)


@contextmanager
def put_back(agent: SearchAgentModule) -> Iterator[None]:
    """Weights, optimizer, schedule, counters and objective are afterwards what they were, to the bit."""
    optimizer, scheduler = cast(Any, agent.optimizers()), cast(Any, agent.lr_schedulers())
    weights = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    optimizer_state, scheduler_state = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(scheduler.state_dict())
    iteration, metrics, objective = agent.iteration, agent.metrics, agent.objective
    skipped = copy.deepcopy(agent.nonfinite.state_dict())
    try:
        yield
    finally:
        agent.policy.load_state_dict(weights)
        optimizer.optimizer.load_state_dict(optimizer_state)
        scheduler.load_state_dict(scheduler_state)
        agent.iteration, agent.metrics, agent.objective = iteration, metrics, objective
        agent.nonfinite.load_state_dict(skipped)


class PairedUpdates(pl.Callback):
    """Makes an iteration's updates with each variant before the run makes its own; after the rollout callback.

    Args:
        variants: Compared.
        at: Iterations, from 0.
        fixed: Correct trajectories of the start policy.
        probe: Whether to update on single questions too.

    Attributes:
        rows: One for each iteration and variant.
        probe_rows: One for each iteration and question.
    """

    def __init__(self, variants: Sequence[Variant], at: Sequence[int], fixed: PolicyBatch, probe: bool) -> None:
        self.variants = variants
        self.at = set(at)
        self.fixed = fixed
        self.probe = probe
        self.rows: list[Row] = []
        self.probe_rows: list[Row] = []
        self._anchors = {LAG: LaggedAnchor(LAG), FROZEN: LaggedAnchor(FROZEN)}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Compare, where it is time to."""
        for anchor in self._anchors.values():
            anchor.advance(pl_module.iteration, pl_module.policy)
        if pl_module.iteration in self.at and batch.policy_batch is not None:
            place = {"iteration": pl_module.iteration, "reward": batch.metrics["reward/mean"]}
            self.rows += [place | self._measure(pl_module, batch, variant) for variant in self.variants]
            if self.probe:
                self.probe_rows += [place | row for row in self._probe(pl_module, batch)]

    def _measure(self, agent: SearchAgentModule, batch: RolloutBatch, variant: Variant) -> Row:
        with put_back(agent):
            policy_batch = self._with_anchor(agent, cast(PolicyBatch, batch.policy_batch), variant.llds)
            before = mean_log_likelihood(agent, self.fixed)
            start = torch.cat([value.detach().flatten() for value in agent.policy.parameters()])
            agent.objective = replace(
                agent.objective, policy_loss=GRPOLoss(**variant.policy), llds_penalty=LLDSPenalty(**variant.llds)
            )
            update = _update(agent, batch, policy_batch, batch.trained, variant.rate)
            after = agent.score(agent.policy, policy_batch)
            end = torch.cat([value.detach().flatten() for value in agent.policy.parameters()])
            return {
                "variant": variant.name,
                "lambda": agent.objective.llds_penalty.coefficient if agent.objective.llds_penalty else 0.0,
                **displacement(policy_batch, after, has_answer(batch.trained)),
                "fixed_set_change": mean_log_likelihood(agent, self.fixed) - before,
                "weights_moved": float((end - start).norm()),
                "grad_norm": update.metrics.get("train/grad_norm", 0.0),
                "ratio_max": update.metrics.get("policy/ratio_max", 1.0),
            }

    def _with_anchor(self, agent: SearchAgentModule, batch: PolicyBatch, llds: dict[str, Any]) -> PolicyBatch:
        if llds.get("anchor") != "lagged":
            return batch
        with self._anchors[llds["anchor_lag"]].applied(agent.policy):
            return replace(batch, anchor_log_probs=agent.score(agent.policy, batch))

    def _probe(self, agent: SearchAgentModule, batch: RolloutBatch) -> Iterator[Row]:
        whole = cast(PolicyBatch, batch.policy_batch)
        for group in range(int(whole.groups.max()) + 1):
            rows = (whole.groups == group).nonzero()[:, 0]
            question = whole.rows(rows)
            if bool(question.correct.any()) and not bool(question.correct.all()):
                question = replace(question, groups=torch.zeros_like(question.groups))
                with put_back(agent):
                    _update(agent, batch, question, [batch.trained[row] for row in rows.tolist()], 1.0)
                    change = _per_response(question, agent.score(agent.policy, question))
                yield {"question": group, "change": float(change[question.correct].mean())}


def _update(
    agent: SearchAgentModule, batch: RolloutBatch, policy_batch: PolicyBatch, trained: list[Trajectory], rate: float
) -> RolloutBatch:
    """The module's own step on these trajectories."""
    scheduler = cast(Any, agent.lr_schedulers())
    scheduler.base_lrs = [rate * value for value in scheduler.base_lrs]
    for group in scheduler.optimizer.param_groups:
        group["lr"] *= rate
    step = RolloutBatch(batch.prompts)
    step.trajectories, step.trained, step.policy_batch = batch.trajectories, trained, policy_batch
    step.metrics.hand_in("rollout", batch.metrics)
    agent.update(step)
    return step


def _per_response(batch: PolicyBatch, after: Tensor) -> Tensor:
    """Change of each response's mean log-likelihood per token, ``[B]``."""
    assert batch.old_log_probs is not None  # noqa: S101 (the module has scored the batch)
    change = torch.where(batch.action_mask, after - batch.old_log_probs, 0.0)
    return change.sum(dim=1) / batch.action_mask.sum(dim=1)


def displacement(batch: PolicyBatch, after: Tensor, answered: Tensor) -> Row:
    """What became of the responses' likelihood; nats per token, and shares.

    Args:
        batch: Scored before the updates.
        after: Log-probabilities after all of them, ``[B, T]``.
        answered: Whether each response ends with an answer, ``[B]``.
    """
    assert batch.old_log_probs is not None  # noqa: S101 (the module has scored the batch)
    signals = displacement_metrics(
        before=batch.old_log_probs,
        after=after,
        action_index=batch.action_index,
        answered=answered,
        correct=batch.correct,
    )
    change, correct = _per_response(batch, after), batch.correct
    signalled = correct & (batch.advantages > 0)
    return {
        "correct": int(correct.sum()),
        "lld_rate_actions": signals.get("llds/lld_rate", ""),
        "lld_rate": _mean(change[correct] < 0),
        "lld_magnitude": _mean((-change[correct]).clamp(min=0)),
        "lld_rate_signalled": _mean(change[signalled] < 0),
        "lld_magnitude_signalled": _mean((-change[signalled]).clamp(min=0)),
        "change_correct": _mean(change[correct]),
        "change_incorrect": _mean(change[~correct]),
        "change_first_action": signals.get("llds/displacement_correct_first", ""),
    }


def _mean(values: Tensor) -> float | str:
    return float(values.double().mean()) if len(values) else ""


def main() -> None:
    """Train donors and compare at several of their iterations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--at", type=int, nargs="+", required=True)
    parser.add_argument("--variants", nargs="+", help="names, in quotes; by default all")
    parser.add_argument("--probe", action="store_true")
    parser.add_argument("--output", type=Path, default=RECORDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task, fixed = TASKS[arguments.task], None
    variants = [one for one in VARIANTS if not arguments.variants or one.name in arguments.variants]
    paired_study, probe_study = (Study(arguments.output / name) for name in ("paired", "probe"))
    for seed in arguments.seeds:
        name = f"{task.name}-lr{arguments.learning_rate:g}-seed{seed}"
        if paired_study.has(name):
            continue
        fixed = fixed or FixedSet(correct_trajectories(task)).batch
        paired = PairedUpdates(variants, arguments.at, fixed, arguments.probe)
        started = time.process_time()
        train(task, Settings(arguments.learning_rate, {"coefficient": 0.0}, max(arguments.at) + 1, seed), [paired])
        if arguments.probe:
            probe_study.add(name, paired.probe_rows)
        paired_study.add(name, paired.rows)  # last: it says that the run is done
        print(f"{name}: {len(paired.rows)} rows, {time.process_time() - started:.0f} CPU s", flush=True)
    for study in (paired_study, probe_study):
        study.pack()


if __name__ == "__main__":
    main()
