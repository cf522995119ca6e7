"""The search agent as a LightningModule: policy, reference, and the loss that trains one from the other.

One training batch is one rollout iteration. `RolloutCallback` fills the batch with trajectories and calls `prepare`,
which adds advantages and log-probabilities; `training_step` then makes ``epochs * mini-batches`` optimizer steps on it.

Left out on purpose: sampling (callbacks/rollout/callback.py), retrieval (callbacks/retrieval.py), the optimizer steps
(update_steps.py), the steps of an evaluation (evaluation_steps.py), what a checkpoint keeps (checkpoint.py).
"""

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import get_scheduler

from llds.agent_tools import AgentTool
from llds.batches import PolicyBatch, RolloutBatch
from llds.errors import ConfigurationError
from llds.losses import GRPOLoss, ImportanceCorrection, KLPenalty, LLDSPenalty, Loss, group_advantages
from llds.metrics import as_floats, has_answer, mean_metrics, policy_metrics
from llds.modules.anchor import LaggedAnchor
from llds.modules.checkpoint import CheckpointHooks
from llds.modules.evaluation_steps import EvaluationSteps
from llds.modules.mini_batches import UpdateRecord
from llds.modules.nonfinite import NonFiniteGuard
from llds.modules.objective import Objective
from llds.modules.optimization import Optimization
from llds.modules.policy.adapters import LoRA
from llds.modules.policy.policy import Policy, PolicyOutput
from llds.modules.policy.tokenizer import check_vocabulary, load_tokenizer
from llds.modules.start_up import check_checkpoint, check_training, has_one_step
from llds.modules.updates import UpdateSteps, scored
from llds.rollout import TagProtocol
from llds.strategies import ZeRO3Strategy, gather, sum_over_ranks, together


class SearchAgentModule(EvaluationSteps, UpdateSteps, CheckpointHooks):
    """Trains a search agent with GRPO + LLDS.

    Subclass it and override `configure_agent_tools` to bring a tool of your own.

    Args:
        policy: Folder of the model that is trained, in the format of transformers.
        policy_loss: GRPO, GSPO or another loss; None is `GRPOLoss` with its defaults.
        kl_penalty: Penalty for leaving the reference; None, or coefficient 0, needs no reference.
        llds_penalty: The LLDS penalty; None, or coefficient 0, is plain GRPO.
        importance_correction: Weights the policy loss for the gap between sampler and trainer; None does not.
        reference: Folder of the reference policy; None is the initial policy.
        optimization: Optimizer, schedule and batch sizes.
        advantage_scale: Whether advantages are divided by their group's standard deviation ("none": Dr.GRPO).
        protocol: Tags of actions and observations; None is Search-R1's.
        agent_tools: The tools of the agent, for `configure_agent_tools`.
        opening_tool: Asked about each question before the agent's first action; what it says stands in the prompt, at
            ``{observation}`` of the prompt template. A search tool makes one-shot retrieval (RAG).
        lora: Trains adapters only; the reference is then the model without them.
        dtype: Data type of the weights.
        gradient_checkpointing: Whether to recompute activations in the backward pass.
        attention: The attention implementation of transformers.
        share_prefixes: Whether what trajectories of a micro-batch have in common is computed once, without padding,
            where the model can; changes the speed, not the result.
        seed: Seed of the order of mini-batches; None takes the run's, ``seed_everything`` (from Python: 0).

    Attributes:
        policy: The policy; loaded by `setup`.
        reference: The frozen reference; None where it is not needed, or is the policy without its adapters.
        tokenizer: The policy's tokenizer, which everyone uses.
        objective: The terms of the loss.
        temperature: Of the actions that are trained on; the rollout sets it.
        iteration: Rollout iterations done.
        metrics: Of the last iteration; callbacks may add to them in their ``on_train_batch_end``.
        nonfinite: Counts optimizer steps that were skipped.
        raised_lambda: The LLDS coefficient where it is no longer the configured one.
        is_updating: Whether the weights are in the middle of an iteration's updates.

    Raises:
        ConfigurationError: If a value is out of its range, or there is no tokenizer in the policy's folder.
    """

    policy: Policy

    def __init__(
        self,
        policy: str,
        policy_loss: Loss | None = None,
        kl_penalty: KLPenalty | None = None,
        llds_penalty: LLDSPenalty | None = None,
        importance_correction: ImportanceCorrection | None = None,
        reference: str | None = None,
        optimization: Optimization = Optimization(),
        advantage_scale: Literal["std", "none"] = "std",
        protocol: TagProtocol | None = None,
        agent_tools: list[AgentTool] | None = None,
        opening_tool: AgentTool | None = None,
        lora: LoRA | None = None,
        dtype: Literal["float32", "bfloat16", "float64"] = "float32",
        gradient_checkpointing: bool = False,
        attention: str = "sdpa",
        share_prefixes: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if seed is not None and seed < 0:
            raise ConfigurationError(f"Expected `model.seed` >= 0, got {seed}.")
        self.automatic_optimization = False
        self.policy_path = policy
        self.reference_path = reference
        self.objective = Objective(policy_loss or GRPOLoss(), kl_penalty, llds_penalty, importance_correction)
        self.optimization = optimization
        self.advantage_scale = advantage_scale
        self.protocol = protocol or TagProtocol()
        self.lora = lora
        self.policy_dtype = dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.attention = attention
        self.share_prefixes = share_prefixes
        self.seed = seed or 0
        self.tokenizer = load_tokenizer(policy)
        self._given_tools = agent_tools or []
        self.opening_tool = opening_tool
        penalty = self.objective.active_llds
        self.anchor = LaggedAnchor(penalty.anchor_lag) if penalty and penalty.anchor == "lagged" else None
        self.reference: Policy | None = None
        self.is_loaded = False
        self.raised_lambda: float | None = None
        self.temperature = 1.0
        self.iteration = 0
        self.metrics: dict[str, float] = {}
        self._is_resumed = False
        self.nonfinite = NonFiniteGuard(optimization.max_nonfinite_steps)
        self.is_updating = False
        self.evaluated = []

    @cached_property
    def agent_tools(self) -> list[AgentTool]:
        """The tools of this agent, made once, after the constructors of all subclasses."""
        return self.configure_agent_tools()

    def configure_agent_tools(self) -> list[AgentTool]:
        """The tools of this agent: those given in the configuration. Override to bring your own."""
        return self._given_tools

    @property
    def device(self) -> torch.device:
        """Where the policy computes; DeepSpeed makes parameters in their place, so that Lightning sees no move."""
        if self._trainer is not None and isinstance(self.trainer.strategy, ZeRO3Strategy):
            return self.trainer.strategy.root_device
        return super().device

    # Set-up

    def setup(self, stage: str) -> None:
        """Check the settings against each other, then load the weights.

        Raises:
            ConfigurationError: If settings do not fit each other, or a model cannot be used.
        """
        together(partial(self.check, stage))
        if isinstance(self.trainer.strategy, ZeRO3Strategy):
            self.trainer.strategy.set_clipping(self.optimization.max_grad_norm)
            self.strict_loading = False  # checkpoints hold what is trained, not what is frozen
        if not self.is_loaded:
            self.policy = Policy(
                self.policy_path,
                self.policy_dtype,
                self.lora,
                self.gradient_checkpointing,
                self.attention,
                self.share_prefixes,
                self._partition,
            )
            check_vocabulary(self.tokenizer, self.policy.base_model, self.policy_path)
            self.is_loaded = True
        if stage == "fit" and self.reference is None:
            self.reference = self._load_reference()

    def _load_reference(self) -> Policy | None:
        if not self.objective.uses_reference or (self.lora and self.reference_path is None):
            return None
        path = self.reference_path or self.policy_path
        reference = Policy(
            path,
            self.policy_dtype,
            attention=self.attention,
            share_prefixes=self.share_prefixes,
            partition=self._partition,
        )
        return reference.requires_grad_(False).eval()

    @property
    def _partition(self) -> Callable[[], AbstractContextManager[Any]] | None:
        """Context in which parameters are made in parts over the ranks, where the strategy wants them so."""
        strategy = self.trainer.strategy
        return strategy.model_sharded_context if isinstance(strategy, ZeRO3Strategy) else None

    def check(self, stage: str) -> None:
        """Check the settings against each other; callbacks ask for it before they begin what takes long.

        Raises:
            ConfigurationError: If settings do not fit each other.
        """
        check_checkpoint(self.trainer)
        if stage == "fit":
            check_training(self.trainer, self._prompts_per_iteration, self.optimization, self.objective)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW over the trainable parameters, with a schedule that advances with each optimizer step."""
        settings = self.optimization
        trainable = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        iterations = int(self.trainer.estimated_stepping_batches)
        steps = iterations * settings.epochs * self._mini_batches_per_iteration
        scheduler = get_scheduler(
            settings.schedule,
            optimizer,
            num_warmup_steps=round(settings.warmup_ratio * steps),
            num_training_steps=steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def set_lambda(self, coefficient: float) -> None:
        """Change the weight of the LLDS penalty from the next iteration on, or switch it on where the run has none.

        What else is configured for it stays; but an anchor that could never act, because the run makes one optimizer
        step per iteration, becomes a lagged one.

        Args:
            coefficient: Above 0.
        """
        penalty = copy.copy(self.objective.llds_penalty or LLDSPenalty())
        penalty.coefficient = coefficient
        if has_one_step(self._prompts_per_iteration, self.optimization):
            penalty.anchor = "lagged"
        if penalty.anchor == "lagged" and self.anchor is None:
            self.anchor = LaggedAnchor(penalty.anchor_lag)
        self.objective = replace(self.objective, llds_penalty=penalty)
        self.raised_lambda = coefficient

    # Scoring

    def forward_context(self) -> AbstractContextManager[Any]:
        """The precision context of a forward outside of `training_step` (autocast, or nothing)."""
        return self.trainer.precision_plugin.forward_context() if self._trainer is not None else nullcontext()

    def prepare(self, batch: PolicyBatch) -> PolicyBatch:
        """Add what training needs: advantages, and log-probabilities under the old, reference and anchor policies.

        Policies that are one and the same are scored once. With a single optimizer step per iteration the old policy
        is left to the update, whose own forward is that of the old policy.

        Args:
            batch: Trajectories with rewards and groups.
        """
        batch = replace(batch, advantages=group_advantages(batch.rewards, batch.groups, scale=self.advantage_scale)).to(
            self.device
        )
        has_own_forward = has_one_step(self._prompts_per_iteration, self.optimization)
        old = None if has_own_forward else self.score(self.policy, batch)
        batch = replace(batch, old_log_probs=old)
        if self.objective.uses_reference:
            is_reference = old is not None and self.iteration == 0 and self.reference_path is None
            batch = replace(batch, ref_log_probs=old if is_reference else self._score_reference(batch))
        if self.anchor is not None:
            self.anchor.advance(self.iteration, self.policy)
            if self.iteration > 0:  # before, the anchor is the old policy
                batch = replace(batch, anchor_log_probs=self._score_anchor(batch, self.anchor))
        return batch

    def _score_reference(self, batch: PolicyBatch) -> Tensor:
        with self.policy.without_adapter() if self.reference is None else nullcontext():
            return self.score(self.reference or self.policy, batch)

    def _score_anchor(self, batch: PolicyBatch, anchor: LaggedAnchor) -> Tensor:
        with anchor.applied(self.policy):
            return self.score(self.policy, batch)

    @torch.no_grad()
    def score(self, policy: Policy, batch: PolicyBatch) -> Tensor:
        """Log-probabilities of the action tokens under a policy, ``[B, T]`` fp32 (fp64 for fp64 weights)."""
        log_probs = torch.zeros(batch.input_ids.shape, dtype=self.score_dtype, device=self.device)
        with self.forward_context(), policy.evaluating():
            for rows, micro_batch in self._micro_batches(policy, batch):
                found = policy(micro_batch, self.temperature).log_probs
                log_probs[rows, : found.shape[1]] = found[: len(rows)].to(self.score_dtype)
        return sum_over_ranks(log_probs)

    def forward(self, batch: PolicyBatch) -> PolicyOutput:
        """What the policy says about a micro-batch."""
        output: PolicyOutput = self.policy(batch, self.temperature)
        return output

    # Training

    def on_train_start(self) -> None:
        """Forget an update that was left unfinished; log what a run that was killed may not have logged."""
        self.is_updating = False
        if self._is_resumed:
            self._write_metrics()
            self._is_resumed = False

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """Update the policy on the trajectories of one iteration; without any, only count it."""
        self.is_updating = True
        started = time.perf_counter()
        if batch.policy_batch is not None:
            record = self._update(batch.policy_batch, answer_weight=self._answer_weight(batch))
            if batch.policy_batch.old_log_probs is None:  # the one step's forward was that of the old policy
                batch.policy_batch = replace(batch.policy_batch, old_log_probs=record.log_probs)
            batch.updated_log_probs = record.log_probs
            batch.metrics |= mean_metrics(record.steps) | as_floats(self._update_norm(record))
            batch.metrics |= self._policy_metrics(batch.policy_batch, has_answer(batch.trained), record)
        batch.timings["update"] = time.perf_counter() - started
        self.iteration += 1
        self.is_updating = False
        self._collect_metrics(batch)

    def _answer_weight(self, batch: RolloutBatch) -> float:
        penalty = self.objective.active_llds
        if penalty is None or penalty.answer_masking is None:
            return 1.0
        return penalty.answer_masking.weight(batch.metrics["rollout/searches"], penalty.coefficient)

    # Logging

    def _policy_metrics(self, batch: PolicyBatch, answered: Tensor, record: UpdateRecord) -> dict[str, float]:
        return policy_metrics(
            old_log_probs=scored(batch),
            new_log_probs=record.log_probs,
            behavior_log_probs=batch.behavior_log_probs,
            entropy=record.entropy,
            action_index=batch.action_index,
            answered=answered,
            rewards=batch.rewards,
            ref_log_probs=batch.ref_log_probs,
        )

    def _collect_metrics(self, batch: RolloutBatch) -> None:
        batch.metrics |= {f"time/{phase}_s": seconds for phase, seconds in batch.timings.items()} | self.place()
        # What a skipped step left behind is not finite; it is counted, and a NaN would spoil every curve.
        # All ranks take rank 0's, to the bit, so that whatever is decided on them is decided alike.
        batch.metrics = gather({key: value for key, value in batch.metrics.items() if math.isfinite(value)})[0]
        self.metrics = batch.metrics
        # For callbacks that monitor a metric. Not for loggers: where an iteration lacks a signal, Lightning would hand
        # them the last value that there was.
        self.log_dict(batch.metrics, logger=False, batch_size=len(batch))

    def on_train_batch_end(self, outputs: Any, batch: RolloutBatch, batch_idx: int) -> None:
        """Hand the iteration's metrics, with what callbacks added, to the loggers."""
        if self.iteration % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._write_metrics()

    def _write_metrics(self) -> None:
        metrics = {key: value for key, value in self.metrics.items() if key != "step"}
        for logger in self.loggers:
            logger.log_metrics(metrics, step=int(self.metrics["step"]))
            logger.save()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write policy and tokenizer as a folder that plain transformers loads."""
        self.policy.save_pretrained(folder, self.tokenizer)
