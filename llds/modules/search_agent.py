"""The search agent as a LightningModule: policy, reference, and the loss that trains one from the other.

One training batch is one rollout iteration. `RolloutCallback` fills the batch with trajectories and calls `prepare`,
which adds advantages and log-probabilities; `training_step` then makes ``epochs * mini-batches`` optimizer steps on it.

Left out on purpose: sampling (callbacks/rollout.py), retrieval (callbacks/retrieval.py).
"""

import time
from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from llds.agent_tools import AgentTool
from llds.data import PolicyBatch, PromptDataModule, RolloutBatch
from llds.errors import ConfigurationError, TooManyFailuresError
from llds.evaluation import evaluate_by_source
from llds.losses import GRPOLoss, KLPenalty, LLDSPenalty, Loss, group_advantages
from llds.metrics import mean_metrics, policy_metrics
from llds.modules.anchor import LaggedAnchor
from llds.modules.objective import Objective
from llds.modules.optimization import Optimization
from llds.modules.policy import LoRA, Policy, PolicyOutput
from llds.modules.tokenizer import load_tokenizer
from llds.rollout import TagProtocol
from llds.types import Trajectory


@dataclass
class UpdateRecord:
    """What the updates of an iteration saw, filled as they go.

    Attributes:
        log_probs: Of the policy in the last epoch, ``[B, T]``.
        entropy: In the last epoch, ``[B, T]``.
        steps: Metrics of each optimizer step.
    """

    log_probs: Tensor
    entropy: Tensor
    steps: list[dict[str, float]] = field(default_factory=list)

    def keep(self, rows: Tensor, output: PolicyOutput) -> None:
        """Keep what the policy said of some rows, ``[rows, at most T]``."""
        width = output.log_probs.shape[1]
        self.log_probs[rows, :width] = output.log_probs.detach().to(self.log_probs.dtype)
        self.entropy[rows, :width] = output.entropy.to(self.entropy.dtype)


class SearchAgentModule(pl.LightningModule):
    """Trains a search agent with GRPO + LLDS.

    Subclass it and override `configure_agent_tools` to bring a tool of your own.

    Args:
        policy: Folder of the model that is trained, in the format of transformers.
        policy_loss: GRPO, GSPO or another loss; None is `GRPOLoss` with its defaults.
        kl_penalty: Penalty for leaving the reference; None, or coefficient 0, needs no reference.
        llds_penalty: The LLDS penalty; None, or coefficient 0, is plain GRPO.
        reference: Folder of the reference policy; None is the initial policy.
        optimization: Optimizer, schedule and batch sizes.
        advantage_scale: Whether advantages are divided by their group's standard deviation ("none": Dr.GRPO).
        protocol: Tags of actions and observations; None is Search-R1's.
        agent_tools: The tools of the agent, for `configure_agent_tools`.
        lora: Trains adapters only; the reference is then the model without them.
        dtype: Data type of the weights.
        gradient_checkpointing: Whether to recompute activations in the backward pass.
        attention: The attention implementation of transformers.
        seed: Seed of the order of mini-batches.

    Attributes:
        policy: The policy; loaded by `setup`.
        reference: The frozen reference; None where it is not needed, or is the policy without its adapters.
        iteration: Rollout iterations done.
        nonfinite_steps: Optimizer steps that were skipped, in the whole run.
        is_updating: Whether the weights are in the middle of an iteration's updates.
        evaluated: Trajectories of the evaluation under way.
    """

    policy: Policy

    def __init__(
        self,
        policy: str,
        policy_loss: Loss | None = None,
        kl_penalty: KLPenalty | None = None,
        llds_penalty: LLDSPenalty | None = None,
        reference: str | None = None,
        optimization: Optimization = Optimization(),
        advantage_scale: Literal["std", "none"] = "std",
        protocol: TagProtocol | None = None,
        agent_tools: list[AgentTool] | None = None,
        lora: LoRA | None = None,
        dtype: Literal["float32", "bfloat16", "float64"] = "float32",
        gradient_checkpointing: bool = False,
        attention: str = "sdpa",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy_path = policy
        self.reference_path = reference
        self.objective = Objective(policy_loss or GRPOLoss(), kl_penalty, llds_penalty)
        self.optimization = optimization
        self.advantage_scale = advantage_scale
        self.protocol = protocol or TagProtocol()
        self.lora = lora
        self.policy_dtype = dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.attention = attention
        self.seed = seed
        self.tokenizer = load_tokenizer(policy)
        self._given_tools = agent_tools or []
        self.agent_tools = self.configure_agent_tools()
        self.anchor: LaggedAnchor | None = None
        if llds_penalty is not None and self.objective.uses_lagged_anchor:
            self.anchor = LaggedAnchor(llds_penalty.anchor_lag)
        self.reference: Policy | None = None
        self.is_loaded = False
        self.temperature = 1.0
        self.iteration = 0
        self.nonfinite_steps = 0
        self._nonfinite_in_a_row = 0
        self.is_updating = False
        self.evaluated: list[Trajectory] = []

    def configure_agent_tools(self) -> list[AgentTool]:
        """The tools of this agent: those given in the configuration. Override to bring your own."""
        return self._given_tools

    # Set-up

    def setup(self, stage: str) -> None:
        """Check the settings against each other, then load the weights."""
        if stage == "fit":
            self._check_training()
        if not self.is_loaded:
            self.policy = Policy(
                self.policy_path, self.policy_dtype, self.lora, self.gradient_checkpointing, self.attention
            )
            self.reference = self._load_reference() if stage == "fit" else None
            self.is_loaded = True

    def _load_reference(self) -> Policy | None:
        if not self.objective.uses_reference or (self.lora and self.reference_path is None):
            return None
        path = self.reference_path or self.policy_path
        return Policy(path, self.policy_dtype, attention=self.attention).requires_grad_(False).eval()

    def _check_training(self) -> None:
        settings, prompts = self.optimization, self._prompts_per_iteration
        if prompts % settings.mini_batch_size:
            raise ConfigurationError(
                f"Expected `data.batch_size` ({prompts} prompts) to be a multiple of "
                f"`model.optimization.mini_batch_size`, got {settings.mini_batch_size}. Change one of them."
            )
        penalty = self.objective.llds_penalty
        if (
            self._steps_per_iteration == 1
            and penalty is not None
            and self.objective.uses_llds
            and penalty.anchor == "old"
        ):
            raise ConfigurationError(
                "Expected at least two optimizer steps per iteration for an LLDS penalty with anchor `old`, got one "
                "(data.batch_size = model.optimization.mini_batch_size, epochs = 1): the policy is then the old policy "
                "itself and the penalty is always 0. Make mini_batch_size smaller, or set "
                "`model.llds_penalty.anchor` to `lagged`."
            )
        if self.trainer.precision == "16-mixed":
            raise ConfigurationError(
                "Expected `trainer.precision` to be 32-true, bf16-mixed, bf16-true or 64-true, got 16-mixed, whose "
                "loss scaling does not fit several optimizer steps per batch. Use bf16-mixed."
            )

    @property
    def _prompts_per_iteration(self) -> int:
        return cast(PromptDataModule, self.trainer.datamodule).batch_size  # type: ignore[attr-defined]

    @property
    def _steps_per_iteration(self) -> int:
        return self.optimization.epochs * (self._prompts_per_iteration // self.optimization.mini_batch_size)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW over the trainable parameters, with a schedule that advances with each optimizer step."""
        settings = self.optimization
        trainable = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches) * self._steps_per_iteration
        scheduler = get_scheduler(
            settings.schedule,
            optimizer,
            num_warmup_steps=round(settings.warmup_ratio * steps),
            num_training_steps=steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # Scoring

    def forward_context(self) -> AbstractContextManager[Any]:
        """The precision context of a forward outside of `training_step` (autocast, or nothing)."""
        return self.trainer.precision_plugin.forward_context() if self._trainer is not None else nullcontext()

    def prepare(self, batch: PolicyBatch) -> PolicyBatch:
        """Add what training needs: advantages, and log-probabilities under the old, reference and anchor policies.

        Args:
            batch: Trajectories with rewards and groups.
        """
        batch = replace(batch, advantages=group_advantages(batch.rewards, batch.groups, scale=self.advantage_scale)).to(
            self.device
        )
        batch = replace(batch, old_log_probs=self.score(self.policy, batch))
        if self.objective.uses_reference:
            with self.policy.without_adapter() if self.reference is None else nullcontext():
                batch = replace(batch, ref_log_probs=self.score(self.reference or self.policy, batch))
        if self.anchor is not None:
            self.anchor.advance(self.iteration, self.policy)
            with self.anchor.applied(self.policy):
                batch = replace(batch, anchor_log_probs=self.score(self.policy, batch))
        return batch

    @torch.no_grad()
    def score(self, policy: Policy, batch: PolicyBatch) -> Tensor:
        """Log-probabilities of the action tokens under a policy, ``[B, T]``, without gradient."""
        log_probs = torch.zeros(batch.input_ids.shape, dtype=self._score_dtype, device=self.device)
        with self.forward_context():
            for rows, micro_batch in batch.micro_batches(self.optimization.micro_batch_size):
                scored = policy(micro_batch, self.temperature).log_probs
                log_probs[rows, : scored.shape[1]] = scored.to(log_probs.dtype)
        return log_probs

    @property
    def _score_dtype(self) -> torch.dtype:
        return torch.float64 if self.policy_dtype == "float64" else torch.float32

    # Training

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """Update the policy on the trajectories of one iteration."""
        started = time.perf_counter()
        if batch.policy_batch is not None:
            self.is_updating = True
            record = self._update(batch.policy_batch, answer_weight=self._answer_weight(batch))
            self.is_updating = False
            batch.metrics |= mean_metrics(record.steps) | self._policy_metrics(batch.policy_batch, record)
        self.iteration += 1
        batch.timings["update"] = time.perf_counter() - started
        self._log_iteration(batch)

    def _update(self, batch: PolicyBatch, answer_weight: float) -> UpdateRecord:
        record = UpdateRecord(torch.zeros_like(_scored(batch)), torch.zeros_like(_scored(batch)))
        for epoch in range(self.optimization.epochs):
            for rows in self._mini_batches(batch, epoch):
                self._step(batch.rows(rows), rows, answer_weight, record)
        return record

    def _mini_batches(self, batch: PolicyBatch, epoch: int) -> list[Tensor]:
        """Row numbers of each mini-batch: whole groups, in an order that seed, iteration and epoch fix."""
        groups = batch.groups.cpu()
        shuffler = np.random.default_rng((self.seed, self.iteration, epoch))
        order = torch.from_numpy(shuffler.permutation(int(groups.max()) + 1))
        count = self._prompts_per_iteration // self.optimization.mini_batch_size
        parts = torch.tensor_split(order, min(count, len(order)))
        return [torch.isin(groups, part).nonzero()[:, 0].to(self.device) for part in parts]

    def _step(self, batch: PolicyBatch, rows: Tensor, answer_weight: float, record: UpdateRecord) -> None:
        """One optimizer step on a mini-batch."""
        optimizer = cast(LightningOptimizer, self.optimizers())
        optimizer.zero_grad()
        denominators = self.objective.denominators(batch, self._sum_over_ranks)
        total = torch.zeros((), device=self.device)
        metrics: dict[str, float] = defaultdict(float)
        for micro_rows, micro_batch in batch.micro_batches(self.optimization.micro_batch_size):
            output = self.policy(micro_batch, self.temperature)
            share = self.objective(output.log_probs, micro_batch, denominators, answer_weight)
            self.manual_backward(share.loss * self.trainer.world_size)  # ranks average the gradients of their shares
            total += share.loss.detach()
            for name, value in share.terms.items():
                metrics[f"train/{name}_loss"] += float(value)
            for key, value in share.signals.items():
                metrics[key] += float(value) * len(micro_batch) / len(batch)
            record.keep(rows[micro_rows], output)
        record.steps.append(metrics | {"train/loss": float(total)} | self._apply_gradients(optimizer, total))

    def _apply_gradients(self, optimizer: Any, loss: Tensor) -> dict[str, float]:
        """Clip and step, unless something is not finite: then every rank skips the step (design rule 8)."""
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.optimization.max_grad_norm)
        finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        if self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            optimizer.step()
            cast(LRScheduler, self.lr_schedulers()).step()
            self._nonfinite_in_a_row = 0
            return {"train/grad_norm": float(norm), "train/nonfinite_step": 0.0}
        optimizer.zero_grad()
        self.nonfinite_steps += 1
        self._nonfinite_in_a_row += 1
        if self._nonfinite_in_a_row >= self.optimization.max_nonfinite_steps:
            raise TooManyFailuresError(
                f"Expected finite losses and gradients, got {self._nonfinite_in_a_row} optimizer steps in a row with "
                f"loss {float(loss)} and gradient norm {float(norm)}; all were skipped. Resume from the last "
                "checkpoint with a lower `model.optimization.learning_rate`."
            )
        return {"train/nonfinite_step": 1.0}

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value, reduce_op="sum")

    def _answer_weight(self, batch: RolloutBatch) -> float:
        penalty = self.objective.llds_penalty
        if penalty is None or penalty.answer_masking is None:
            return 1.0
        return penalty.answer_masking.weight(batch.metrics["rollout/searches"], penalty.coefficient)

    # Logging

    def _policy_metrics(self, batch: PolicyBatch, record: UpdateRecord) -> dict[str, float]:
        return policy_metrics(
            old_log_probs=_scored(batch),
            new_log_probs=record.log_probs,
            behavior_log_probs=batch.behavior_log_probs,
            entropy=record.entropy,
            action_index=batch.action_index,
            rewards=batch.rewards,
            ref_log_probs=batch.ref_log_probs,
        )

    def _log_iteration(self, batch: RolloutBatch) -> None:
        rate = cast(LightningOptimizer, self.optimizers()).param_groups[0]["lr"]
        batch.metrics |= {f"time/{phase}_s": seconds for phase, seconds in batch.timings.items()}
        batch.metrics |= {"iteration": float(self.iteration), "step": float(self.trainer.global_step)}
        batch.metrics |= {"train/learning_rate": rate}
        self.log_dict(batch.metrics, batch_size=len(batch))

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """Forget the trajectories of the last evaluation."""
        self.evaluated = []

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """Keep the batch's trajectories, which `RolloutCallback` rewarded."""
        self.evaluated += batch.trajectories

    test_step = validation_step

    def predict_step(self, batch: RolloutBatch, batch_idx: int) -> list[Trajectory]:
        """Return the batch's trajectories."""
        return batch.trajectories

    def on_validation_epoch_end(self) -> None:
        """Log the results by data source."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log the results by data source."""
        self._log_evaluation("test")

    def _log_evaluation(self, root: str) -> None:
        results = evaluate_by_source(self.evaluated)
        sources = results if len(results) > 2 else results[:1]  # one source: the total is the same
        for result in sources:
            prefix = root if result.name == "all" else f"{root}/{result.name}"
            self.log_dict({f"{prefix}/{key}": value for key, value in result.metrics().items()})

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the counters; leave the frozen reference out."""
        checkpoint["state_dict"] = {
            name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("reference.")
        }
        checkpoint["search_agent"] = {
            "iteration": self.iteration,
            "nonfinite_steps": self.nonfinite_steps,
            "anchor": self.anchor.state_dict() if self.anchor else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counters; the reference is the one that was just loaded."""
        if self.reference is not None:
            checkpoint["state_dict"] |= {
                f"reference.{name}": value for name, value in self.reference.state_dict().items()
            }
        state = checkpoint["search_agent"]
        self.iteration, self.nonfinite_steps = state["iteration"], state["nonfinite_steps"]
        if self.anchor is not None and state["anchor"] is not None:
            self.anchor.load_state_dict(state["anchor"])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write policy and tokenizer as a folder that plain transformers loads."""
        self.policy.save_pretrained(folder, self.tokenizer)


def _scored(batch: PolicyBatch) -> Tensor:
    """The old log-probabilities of a batch that was prepared."""
    return cast(Tensor, batch.old_log_probs)
