"""LLDS and the signals of likelihood for TRL's GRPOTrainer.

    trainer = LLDSTrainer(model=..., reward_funcs=..., args=GRPOConfig(num_iterations=2), train_dataset=...)

Of TRL's trainer three methods are overridden that are not public, so its release is pinned by the extra (`llds[trl]`);
with a penalty of 0 the loss is TRL's own, to the bit.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from llds.errors import ConfigurationError
from llds.integrations.likelihood import Likelihood, Sample
from llds.integrations.transformers import CollapseCallback
from llds.losses import LLDSPenalty, LossBatch, LossInputs, number_actions
from llds.monitor.sources.vocabulary import BROUGHT

_ROW, _OLD = "llds_row", "old_per_token_logps"
_EXTREMES = {"policy/ratio_max": torch.amax, "policy/ratio_min": torch.amin}


class LLDSTrainer(GRPOTrainer):
    """TRL's GRPOTrainer with the LLDS penalty in its loss, and the signals of likelihood in its log.

    The penalty is computed on the tokens that the trainer trains on: tools' answers are masked (``tool_mask``), and
    what the model says between two of them is one action, with a gate of its own. It is averaged over the mini-batch of
    an optimizer step, over all processes.

    Args:
        *args: As of GRPOTrainer.
        llds: The penalty; None for the paper's (lambda 0.2, gates by action). Lambda 0 adds nothing.
        correct_above: A response whose reward is above this counts as correct, for the signals of likelihood.
        rescored: Responses of a process that are scored once more after an iteration's updates; half as many are the
            fixed set of early correct ones. 0 leaves these signals out.
        budget: Share of the training's time that scoring them may take; iterations are left out to keep it.
        **kwargs: As of GRPOTrainer.

    Attributes:
        llds: The penalty.
        likelihood: The signals.

    Raises:
        ConfigurationError: If the penalty would have no effect, or one of its settings is not for TRL.
    """

    def __init__(
        self,
        *args: Any,
        llds: LLDSPenalty | None = None,
        correct_above: float = 0.0,
        rescored: int = 8,
        budget: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.llds = LLDSPenalty() if llds is None else llds
        self.correct_above = correct_above
        self.likelihood = Likelihood(rescored, budget)
        self._ends_at = -1  # micro-batch with which the iteration at hand ends
        self._scores: tuple[Tensor, Tensor] | None = None
        self._check()
        self.add_callback(_AfterUpdates(self))
        for one in self.callback_handler.callbacks:
            if isinstance(one, CollapseCallback):
                one.llds = self.llds.coefficient > 0

    def _check(self) -> None:
        if self.llds.coefficient == 0:
            return
        if self.llds.anchor != "old" or self.llds.answer_masking is not None:
            raise ConfigurationError(
                "Expected a penalty with `anchor` old and without `answer_masking` in TRL, got "
                f"{self.llds.anchor} and {self.llds.answer_masking}. Take llds' own trainer for these."
            )
        micro_batches = self.args.steps_per_generation * self.num_iterations
        if self.args.gradient_accumulation_steps % micro_batches == 0:
            raise ConfigurationError(
                "Expected several optimizer steps per generation for an LLDS penalty, got one "
                f"(gradient_accumulation_steps {self.args.gradient_accumulation_steps}, steps_per_generation "
                f"{self.args.steps_per_generation}, num_iterations {self.num_iterations}): the policy is then the old "
                "policy itself and the penalty always 0. Set num_iterations to 2, or steps_per_generation higher."
            )

    def _calculate_rewards(self, inputs: Any, prompts: Any, *others: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, *others)
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        first = self.accelerator.process_index * len(prompts)
        self._is_correct = total[first : first + len(prompts)] > self.correct_above
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model.training:
            output[_ROW] = torch.arange(len(self._is_correct), device=output["advantages"].device)
            self.likelihood.begin(self._samples(output), _actions(output), self.num_generations)
            self._ends_at = self._step + self.args.steps_per_generation * self.num_iterations
        return output

    def _samples(self, output: dict[str, Any]) -> list[Sample]:
        actions = _actions(output)
        masks = zip(output["prompt_mask"].bool(), output["completion_mask"].bool(), strict=True)
        ids = zip(output["prompt_ids"], output["completion_ids"], strict=True)
        return [
            Sample(prompt[of_prompt], completion[there], action[there], is_correct)
            for (prompt, completion), (of_prompt, there), action, is_correct in zip(
                ids, masks, actions, self._is_correct.tolist(), strict=True
            )
        ]

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._scores = found[:2]
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        assert self._scores is not None  # noqa: S101 (GRPOTrainer's loss has just computed them)
        (log_probs, entropies), self._scores = self._scores, None
        old = inputs.get(_OLD)
        old = log_probs.detach() if old is None else old
        if _ROW in inputs and self.model.training:
            self.likelihood.see(inputs[_ROW], old, log_probs, entropies)
        if self.llds.coefficient == 0:
            return loss
        action_index = _actions(inputs)
        terms = LossInputs(
            log_probs=log_probs,
            old_log_probs=old,
            anchor_log_probs=old,
            advantages=inputs["advantages"],
            action_index=action_index,
        )
        penalty = self.llds(terms, self._denominator(inputs))
        self._note(
            {"llds/loss": float(penalty.loss.detach()), **{name: float(one) for name, one in penalty.metrics.items()}}
        )
        return loss + self.llds.coefficient * penalty.loss

    def _denominator(self, inputs: dict[str, Any]) -> Tensor:
        """What the penalty of a micro-batch divides by, so that those of an optimizer step add up to their mean.

        The trainer averages gradients over processes and adds them over micro-batches. Where an optimizer step takes
        micro-batches of several generations, those to come are taken to be like this one.
        """
        steps, window = self.args.steps_per_generation, self.current_gradient_accumulation_steps
        batches, times = [inputs], 1
        if self.model.training and steps % window == 0:
            first = self._step % steps // window * window
            batches = self._buffered_inputs[first : first + window]
        elif self.model.training:
            times = window
        trajectories = [LossBatch(advantages=one["advantages"], action_index=_actions(one)) for one in batches]
        count = torch.stack([self.llds.denominator(one) for one in trajectories]).sum()
        total = self.accelerator.reduce(count, reduction="sum")
        return total * times / self.accelerator.num_processes

    def _note(self, values: dict[str, float]) -> None:
        mode = "train" if self.model.training else "eval"
        for name, value in values.items():
            self._metrics[mode][name].append(value)

    def log_likelihood(self) -> None:
        """After an optimizer step: the signals of the iteration, if this step was its last."""
        if not 0 <= self._ends_at <= self._step:
            return
        self._ends_at = -1
        due = torch.tensor(float(self.likelihood.is_due and self.likelihood.size > 0), device=self.accelerator.device)
        is_due = bool(self.accelerator.reduce(due, reduction="mean") > 0.5)  # on all processes or on none
        values = self.likelihood.measure(self._score if is_due else None)
        names = sorted(BROUGHT)
        own = torch.tensor([values.get(name, torch.nan) for name in names], device=self.accelerator.device)
        everywhere = self.accelerator.gather(own[None])
        for number, name in enumerate(names):
            there = everywhere[:, number][~everywhere[:, number].isnan()]
            if len(there):
                self._note({name: float(_EXTREMES.get(name, torch.mean)(there))})
        self._note({"time/signals_share": self.likelihood.share})

    def _score(self, samples: Sequence[Sample]) -> Tensor:
        """Log-probabilities of the completions under the policy as it is, ``[B, C]``."""
        prompts = _pad([one.prompt for one in samples], self._tokenizer.pad_token_id, "left")
        completions = _pad([one.completion for one in samples], self._tokenizer.pad_token_id, "right")
        masks = [
            _pad([torch.ones_like(part) for part in parts], 0, side)
            for parts, side in (([s.prompt for s in samples], "left"), ([s.completion for s in samples], "right"))
        ]
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            scores: Tensor = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([prompts, completions], 1),
                torch.cat(masks, 1),
                completions.shape[1],
                batch_size=self.args.per_device_train_batch_size,
            )[0]
        return scores


class _AfterUpdates(TrainerCallback):
    """Has the signals computed before the trainer logs."""

    def __init__(self, trainer: LLDSTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Of an optimizer step."""
        self.trainer.log_likelihood()


def _actions(inputs: dict[str, Any]) -> Tensor:
    """Turn number of the tokens that the model said, -1 elsewhere, ``[B, C]``."""
    mask = inputs["completion_mask"]
    return number_actions(mask * inputs["tool_mask"] if "tool_mask" in inputs else mask)


def _pad(parts: Sequence[Tensor], value: int, side: str) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=value, padding_side=side)
