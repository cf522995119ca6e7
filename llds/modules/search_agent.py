"""The search agent as a LightningModule: policy, reference, and the loss that trains one from the other.

One training batch is one rollout iteration. `RolloutCallback` fills the batch with trajectories and calls `prepare`,
which adds advantages and log-probabilities; `training_step` then makes ``epochs * mini-batches`` optimizer steps on it.

Left out on purpose: sampling (`llds.callbacks.rollout`), retrieval (`llds.callbacks.retrieval`), the optimizer steps
(`llds.modules.updates`), what an evaluation shows (`llds.modules.evaluation`), what a checkpoint keeps
(`llds.modules.checkpoint`).
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from llds.agent_tools import AgentTool, EnvironmentFactory
from llds.batches import PolicyBatch, RolloutBatch
from llds.batches.loss_inputs import check_estimator, with_advantages
from llds.data import PromptDataModule
from llds.errors import ConfigurationError
from llds.files import model_folder, pin_of
from llds.losses import Advantages, GRPOLoss, ImportanceCorrection, KLPenalty, LLDSPenalty, Loss, Selection
from llds.metrics import as_floats, has_answer, mean_metrics
from llds.modules.anchor import LaggedAnchor
from llds.modules.checkpoint import AgentState, check_fit, leave_reference_out, put_reference_in
from llds.modules.evaluation import EvaluatedModule, Evaluation
from llds.modules.gradients import Gradients
from llds.modules.measuring import assemble, write
from llds.modules.nonfinite import NonFiniteGuard
from llds.modules.objective import Objective
from llds.modules.optimization import Optimization
from llds.modules.policy import LoRA, Policy, PolicyOutput
from llds.modules.policy.head_reading import HeadReading
from llds.modules.policy.rounding import warn_of_rounding
from llds.modules.policy.tokenizer import check_vocabulary, load_tokenizer
from llds.modules.start_up import check_checkpoint, check_commit, check_objective, check_training
from llds.modules.updates import PolicyUpdate
from llds.rollout import Protocol, TagProtocol
from llds.strategies import (
    ZeRO3Strategy,
    load_training_state,
    rank,
    sum_over_ranks,
    together,
    world_size,
)


class SearchAgentModule(EvaluatedModule):
    """Trains a search agent with GRPO + LLDS.

    Subclass it and override `configure_agent_tools` to bring a tool of your own.

    Args:
        policy: Folder of the model that is trained, in the format of transformers, or its name on the hub,
            ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
        policy_loss: GRPO, GSPO or another loss; None is `GRPOLoss` with its defaults.
        kl_penalty: Penalty for leaving the reference; None, or coefficient 0, needs no reference.
        llds_penalty: The LLDS penalty; None, or coefficient 0, is plain GRPO.
        importance_correction: Weights the policy loss for the gap between sampler and trainer; None does not.
        reference: Folder or name of the reference policy; None is the initial policy.
        optimization: Optimizer, schedule and batch sizes.
        advantage_scale: Whether advantages are divided by their group's standard deviation; with "none" and
            ``aggregation: constant`` of the policy loss it is Dr.GRPO.
        advantages: Another estimator of advantages; None compares with the group, by ``advantage_scale``.
        terms: Further terms of the loss, each with its coefficient; None adds none.
        selections: What the policy loss learns from, one after the other; None is everything.
        protocol: The format of calls, answers and observations; None is Search-R1's tags.
        agent_tools: The tools of the agent, for `configure_agent_tools`.
        opening_tool: Asked about each question before the agent's first action; what it says stands in the prompt, at
            ``{observation}`` of the prompt template. A search tool makes one-shot retrieval (RAG).
        environment: Makes an environment for each trajectory, whose methods are tools beside the others.
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
        metrics: Of the last iteration, with what callbacks hand in at its end.
        nonfinite: Counts optimizer steps that were skipped.
        gradients: Makes gradients, and steps by them.
        evaluation: What the evaluation under way, or the last, showed.
        raised_lambda: The LLDS coefficient where it is no longer the configured one.
        keeps_reference: Whether the reference is loaded though no term of the loss reads it; set before `setup`.
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
        advantages: Advantages | None = None,
        terms: list[Loss] | None = None,
        selections: list[Selection] | None = None,
        protocol: Protocol | None = None,
        agent_tools: list[AgentTool] | None = None,
        opening_tool: AgentTool | None = None,
        environment: EnvironmentFactory | None = None,
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
        self.reference_path = reference
        self.objective = Objective(
            policy_loss or GRPOLoss(), kl_penalty, llds_penalty, importance_correction, terms or [], selections or []
        )
        self.optimization = optimization
        check_estimator(advantages, advantage_scale)
        self.advantage_scale, self.advantages = advantage_scale, advantages
        self.protocol: Protocol = protocol or TagProtocol()
        self.lora = lora
        self.policy_dtype = dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.attention = attention
        self.share_prefixes = share_prefixes
        self.seed = seed or 0
        self.tokenizer = load_tokenizer(policy)
        self.policy_path = pin_of(policy)
        self._given_tools = agent_tools or []
        self.opening_tool = opening_tool
        self.environment = environment
        self.anchor = LaggedAnchor.of(self.objective.active_llds)
        self.reference: Policy | None = None
        self.is_loaded = False
        self.keeps_reference = False
        self.raised_lambda: float | None = None
        self.temperature = 1.0
        self.iteration = 0
        self.metrics: Mapping[str, float] = {}
        self._is_resumed = False
        self._course: Mapping[str, Any] | None = None
        self.nonfinite = NonFiniteGuard(optimization.max_nonfinite_steps)
        self.gradients = Gradients(self, optimization.max_grad_norm, self.nonfinite)
        self.is_updating = False
        self.evaluation = Evaluation()

    @cached_property
    def agent_tools(self) -> list[AgentTool]:
        """The tools of this agent, made once, after the constructors of all subclasses."""
        given = [tool for one in self.configure_agent_tools() for tool in one.expand()]
        return [*given, *(self.environment.tools if self.environment else [])]

    def configure_agent_tools(self) -> list[AgentTool]:
        """The tools of this agent: those given in the configuration. Override to bring your own."""
        return self._given_tools

    @property
    def all_tools(self) -> list[AgentTool]:
        """The tools, and the one that opens."""
        return [*self.agent_tools, *([self.opening_tool] if self.opening_tool else [])]

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
        check_commit(self.policy_path)
        if isinstance(self.trainer.strategy, ZeRO3Strategy):
            self.trainer.strategy.set_clipping(self.optimization.max_grad_norm)
            self.strict_loading = False  # checkpoints hold what is trained, not what is frozen
        if not self.is_loaded:
            self.policy = self._load(self.policy_path, self.lora, self.gradient_checkpointing)
            check_vocabulary(self.tokenizer, self.policy.base_model, self.policy_path)
            self.is_loaded = True
        is_own_reference = self.lora is not None and self.reference_path is None  # the model without its adapters
        is_read = self.keeps_reference or self.objective.uses_reference
        if stage == "fit" and self.reference is None and is_read and not is_own_reference:
            self.reference = self._load(self.reference_path or self.policy_path).requires_grad_(False).eval()

    def _load(self, path: str, lora: LoRA | None = None, gradient_checkpointing: bool = False) -> Policy:
        partition = self._partition
        return Policy(
            path, self.policy_dtype, lora, gradient_checkpointing, self.attention, self.share_prefixes, partition
        )

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
            check_objective(self.objective, self.advantages)
            if self.reference_path is not None:
                model_folder(self.reference_path, "model.reference")

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW over the trainable parameters, with a schedule that advances with each optimizer step."""
        return self.optimization.configure(self.policy.parameters(), self._steps_of_run)

    @property
    def _steps_of_run(self) -> int:
        return int(self.trainer.estimated_stepping_batches) * self.steps_per_iteration

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps of an iteration."""
        return self.optimization.steps(self._prompts_per_iteration)

    @property
    def _prompts_per_iteration(self) -> int:
        return cast(PromptDataModule, self.trainer.datamodule).batch_size  # type: ignore[attr-defined]

    def set_lambda(self, coefficient: float) -> None:
        """Change the weight of the LLDS penalty from the next iteration on, or switch it on where the run has none.

        What else is configured for it stays; but an anchor that could never act, because the run makes one optimizer
        step per iteration, becomes a lagged one.

        Args:
            coefficient: Above 0.
        """
        penalty = self.objective.llds_penalty or LLDSPenalty()
        penalty = penalty.with_lambda(coefficient, needs_lagged_anchor=self.steps_per_iteration == 1)
        self.objective = replace(self.objective, llds_penalty=penalty)
        self.anchor = self.anchor or LaggedAnchor.of(self.objective.llds_penalty)
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
        reading = HeadReading(self.policy, self.optimization.micro_batch_limits, self.temperature)
        with self.forward_context():
            batch = reading.with_influence(batch, self.advantages)
            batch = with_advantages(batch, self.advantage_scale, self.advantages).to(self.device)
            batch = reading.with_proxy(batch, self.objective.selections)
        chosen = self.objective.selections
        needs_old = self.steps_per_iteration > 1 or any(one.reads_old_log_probs for one in chosen)
        old = self.score(self.policy, batch) if needs_old else None
        entropy = self.score(self.policy, batch, "entropy") if any(one.reads_old_entropy for one in chosen) else None
        batch = replace(batch, old_log_probs=old, old_entropy=entropy)
        if self.objective.uses_reference:
            is_reference = old is not None and self.iteration == 0 and self.reference_path is None
            batch = replace(batch, ref_log_probs=old if is_reference else self.score_reference(batch))
        if self.anchor is not None:
            self.anchor.advance(self.iteration, self.policy)
            if self.iteration > 0:  # before, the anchor is the old policy
                batch = replace(batch, anchor_log_probs=self._score_anchor(batch, self.anchor))
        return batch

    def score_reference(self, batch: PolicyBatch) -> Tensor:
        """Log-probabilities of the action tokens under the reference, which the module must have, ``[B, T]``."""
        with self.policy.without_adapter() if self.reference is None else nullcontext():
            return self.score(self.reference or self.policy, batch)

    def _score_anchor(self, batch: PolicyBatch, anchor: LaggedAnchor) -> Tensor:
        with anchor.applied(self.policy):
            return self.score(self.policy, batch)

    def score(self, policy: Policy, batch: PolicyBatch, what: Literal["log_probs", "entropy"] = "log_probs") -> Tensor:
        """Log-probabilities (or entropies) of the action tokens under a policy, ``[B, T]`` fp32 (fp64 for fp64)."""
        return self.scores(policy, batch, what)[0]

    @torch.no_grad()
    def scores(self, policy: Policy, batch: PolicyBatch, *what: str, watched: Tensor | None = None) -> list[Tensor]:
        """Fields of `PolicyOutput` (``what``) in one pass, each ``[B, T]`` fp32 (fp64 for fp64).

        ``watched`` are token ids for the field of that name, ``[K]`` long. Micro-batches and ranks change nothing.
        """
        empty = torch.zeros(batch.input_ids.shape, dtype=self.policy.score_dtype, device=self.device)
        found = [empty.clone() for _ in what]
        limits, packed = self.optimization.micro_batch_limits, policy.shares_prefixes
        with self.forward_context(), policy.evaluating():
            for rows, micro_batch in batch.micro_batches(limits, rank(), world_size(), packed=packed):
                output: PolicyOutput = policy(micro_batch, self.temperature, watched)
                for whole, name in zip(found, what, strict=True):
                    values: Tensor = getattr(output, name)
                    whole[rows, : values.shape[1]] = values[: len(rows)].to(whole.dtype)
        return [sum_over_ranks(whole) for whole in found]

    def forward(self, batch: PolicyBatch) -> PolicyOutput:
        """What the policy says about a micro-batch."""
        output: PolicyOutput = self.policy(batch, self.temperature)
        return output

    # Training

    def on_train_start(self) -> None:
        """Forget an update that was left unfinished; log what a run that was killed may not have logged."""
        with self.forward_context():
            self.policy.try_attention(self.device)
        self.is_updating = False
        warn_of_rounding(self.policy, self.optimization.learning_rate, has_master=self._partition is not None)
        if self._is_resumed:
            write(self.loggers, self.metrics)
            self.optimization.take_effect(self, self._course, self._steps_of_run)
            self._is_resumed = False

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """Update the policy on the trajectories of one iteration, and measure it; without any, only count it."""
        self.is_updating = True
        with batch.timed("update"):
            self.update(batch)
        self.iteration += 1
        self.is_updating = False
        self.metrics = batch.metrics = assemble(self, batch, self.place())
        for term in self.objective.terms.values():
            term.adapt(self.metrics)
        # For callbacks that monitor a metric. Not for loggers: where an iteration lacks a signal, Lightning would hand
        # them the last value that there was.
        self.log_dict(dict(self.metrics), logger=False, batch_size=len(batch))

    def update(self, batch: RolloutBatch) -> None:
        """Make the optimizer steps on the trajectories of one iteration; the batch gets what they saw."""
        if batch.policy_batch is None:
            return
        penalty = self.objective.active_llds
        record = self.policy_update(penalty.answer_weight(batch.metrics) if penalty else 1.0).run(batch.policy_batch)
        if batch.policy_batch.old_log_probs is None:  # the one step's forward was that of the old policy
            batch.policy_batch = replace(batch.policy_batch, old_log_probs=record.log_probs)
        batch.updated_log_probs = record.log_probs
        self.nonfinite.tell(record.skipped, len(record.steps), self.iteration + 1)
        batch.metrics.hand_in(
            "update",
            mean_metrics(record.steps),
            as_floats(self.gradients.update_norm(record.learning_rates)),
            record.policy_metrics(batch.policy_batch, has_answer(batch.trained)),
        )

    def policy_update(self, answer_weight: float = 1.0) -> PolicyUpdate:
        """What makes the optimizer steps of the present iteration.

        Args:
            answer_weight: Weight beta of the final answer's tokens in the LLDS penalty.
        """
        return PolicyUpdate(
            self.policy,
            self.objective,
            self.optimization,
            self.gradients,
            mini_batches=self.optimization.mini_batches(self._prompts_per_iteration),
            seed=(self.seed, self.iteration),
            answer_weight=answer_weight,
        )

    # Metrics

    def place(self) -> dict[str, float]:
        """Where the run stands; loggers take one of them as the horizontal axis (`write`)."""
        return {"iteration": float(self.iteration), "step": float(self.trainer.global_step)}

    def on_train_batch_end(self, outputs: Any, batch: RolloutBatch, batch_idx: int) -> None:
        """Hand the iteration's metrics, with what callbacks added, to the loggers."""
        if self.iteration % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            write(self.loggers, self.metrics)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the counters; leave the frozen reference out."""
        leave_reference_out(checkpoint)
        anchor = self.anchor.state_dict() if self.anchor else None
        AgentState(
            self.iteration,
            dict(self.metrics),
            self.nonfinite.state_dict(),
            anchor,
            self.raised_lambda,
            self.optimization.course(self._steps_of_run),
            {name: term.adapted() for name, term in self.objective.terms.items()},
        ).save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counters; the reference is the one that was just loaded.

        Raises:
            ConfigurationError: If the weights are those of another model.
        """
        if "state_dict" in checkpoint:
            check_fit(checkpoint["state_dict"], self, self.policy_path)
        put_reference_in(checkpoint, self.reference)
        state = AgentState.load(checkpoint)
        self.iteration, self.metrics = state.iteration, state.metrics
        self._is_resumed, self._course = self.trainer.state.fn == "fit", state.course
        self.nonfinite.load_state_dict(state.nonfinite)
        if self._is_resumed and state.raised_lambda is not None:
            self.set_lambda(state.raised_lambda)
        state.restore(self.objective.terms)
        if self.anchor is not None and state.anchor is not None:
            self.anchor.load_state_dict(state.anchor)

    def roll_back(self, path: str | Path) -> dict[str, Any]:
        """Go back to the weights of a checkpoint in mid-run, and go on from them; every rank must call.

        Weights, optimizer, schedule and lagged anchor are the checkpoint's. Iterations, optimizer steps and position in
        the prompts count on: what comes is new, and sampled by new seeds.

        Args:
            path: A checkpoint of this run; call between two iterations, such as in a callback's ``on_train_batch_end``.

        Returns:
            What else the checkpoint holds, to restore more from.

        Raises:
            ConfigurationError: If it was written with another strategy or another number of ranks.
        """
        checkpoint = load_training_state(self.trainer, Path(path))
        state = AgentState.load(checkpoint)
        self.nonfinite.taken()
        self.optimization.take_effect(self, state.course, self._steps_of_run)
        if self.anchor is not None:
            self.anchor.go_back(state.anchor, self.iteration - state.iteration)
        return checkpoint

    def save_pretrained(self, folder: str | Path) -> None:
        """Write policy and tokenizer as a folder that plain transformers loads."""
        self.policy.save_pretrained(folder, self.tokenizer)
