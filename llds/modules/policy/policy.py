"""The policy: a causal language model that reports log-probabilities and entropy at action positions only.

The model's body runs on whole trajectories, what they share once (`llds.batches.prefix_tree`); its head runs on action
tokens alone, equal ones after equal beginnings once, in chunks. Models that cannot share get trajectories padded on the
right: causal attention never looks right, so no attention mask is needed and padding cannot reach an action.

Left out on purpose: sampling (`llds.rollout`), and which batches are scored or trained on (`search_agent`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from llds.batches.policy_batch import PolicyBatch
from llds.batches.prefix_tree import PrefixTree
from llds.dtypes import DTYPES
from llds.files import model_folder
from llds.losses.log_probs import before_actions
from llds.modules.policy.adapters import LoRA, merged_weights, with_adapters
from llds.modules.policy.fused_head import FusedHead, logit_scale
from llds.modules.policy.loading import load
from llds.modules.policy.noise import Silence
from llds.modules.policy.partitioned_loading import bare_model, load_partitioned, miniature
from llds.modules.policy.tree_attention import TREE_ATTENTION, tree_hidden_states, try_flash_attention, why_not_shared
from llds.modules.policy.weights import full_weights
from llds.samplers.saved_layout import in_saved_layout
from llds.strategies import is_partitioned, rank


class PolicyOutput(NamedTuple):
    """What the policy says about a batch.

    Attributes:
        log_probs: Of each action token, 0 elsewhere, ``[B, T]``.
        entropy: Of the distribution at each action token, in nats, 0 elsewhere, ``[B, T]``.
        watched: Summed probability of the watched tokens there, 0 elsewhere, ``[B, T]``; None where none is watched.
    """

    log_probs: Tensor
    entropy: Tensor
    watched: Tensor | None = None


class Policy(nn.Module):
    """A transformers model as a policy.

    Dropout and other noise is off: with it the policy would differ from the old policy before it has learned anything.

    Args:
        path: Folder in the format of transformers (``llds:...`` for one inside the package), or a name on the hub.
        dtype: Data type of the weights.
        lora: Adapters to train instead of the whole model.
        gradient_checkpointing: Whether to recompute activations in the backward pass, to save memory.
        attention: The attention implementation of transformers.
        share_prefixes: Whether what trajectories of a micro-batch have in common is computed once, without padding,
            where the model can: with ``sdpa`` attention that sees all of the past. Changes the speed, not the result.
        partition: Context in which DeepSpeed takes parameters apart as they are made: no rank ever holds the whole
            model, and the weights are read one by one. None holds it whole.

    Raises:
        ConfigurationError: If the folder holds no model, or one whose logits are not a plain linear map, or the
            adapters do not fit it.
    """

    def __init__(
        self,
        path: str,
        dtype: Literal["float32", "bfloat16", "float64"] = "float32",
        lora: LoRA | None = None,
        gradient_checkpointing: bool = False,
        attention: str = "sdpa",
        share_prefixes: bool = True,
        partition: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        super().__init__()
        if partition is None:
            model = example = load(path, dtype, attention)
        else:
            model = load_partitioned(model_folder(path, "model.policy"), DTYPES[dtype], attention, partition)
            example = miniature(model)
        self.logit_scale = logit_scale(example, path)
        self.shares_prefixes = share_prefixes and _can_share_prefixes(example)
        if self.shares_prefixes:
            model.set_attn_implementation(TREE_ATTENTION)
        self._silence = Silence(model)
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.has_adapter = lora is not None
        self.model: Any = model if lora is None else with_adapters(model, lora)  # PreTrainedModel | PeftModel
        self.head = FusedHead(self.base_model.get_output_embeddings())
        self.train()  # transformers loads in evaluation mode, in which nothing is checkpointed

    @property
    def base_model(self) -> PreTrainedModel:
        """The transformers model, adapters within its layers included."""
        return self.model.get_base_model() if self.has_adapter else self.model

    @property
    def score_dtype(self) -> torch.dtype:
        """Data type in which log-probabilities are kept: fp32, or fp64 for fp64 weights."""
        is_double = next(self.parameters()).dtype == torch.float64
        return torch.float64 if is_double else torch.float32

    def forward(self, batch: PolicyBatch, temperature: float = 1.0, watched: Tensor | None = None) -> PolicyOutput:
        """Log-probabilities and entropy of the action tokens.

        Args:
            batch: Trajectories, padded on the right.
            temperature: Divides the logits, as it did when the actions were sampled.
            watched: Token ids whose probability is wanted at every action token, ``[K]`` long.
        """
        hidden, copy_of = self._hidden_before_actions(batch)
        return PolicyOutput(*self.head(hidden, batch.input_ids, batch.action_index, copy_of, temperature, watched))

    def hidden_before_actions(self, batch: PolicyBatch) -> Tensor:
        """The last hidden states that predict the action tokens, row by row, ``[N, H]``.

        Args:
            batch: Trajectories, padded on the right.
        """
        hidden, copy_of = self._hidden_before_actions(batch)
        return hidden if copy_of is None else hidden[copy_of]

    def _hidden_before_actions(self, batch: PolicyBatch) -> tuple[Tensor, Tensor | None]:
        """The last hidden states that predict the action tokens, ``[D, H]``, and which of them predicts each, ``[N]``.

        None, with one state for each, where nothing is shared.
        """
        decoder: Any = self.base_model.get_decoder()
        if not self.shares_prefixes:
            hidden = decoder(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # [B, T, H]
            return self._scaled(before_actions(hidden, batch.action_index)), None
        tree = PrefixTree.build(batch.input_ids, batch.lengths)
        predicted, copy_of = tree.nodes[batch.action_mask].unique(return_inverse=True)
        predictors = before_actions(tree.nodes, batch.action_index)  # [N]; those of one node are equal
        predictors = torch.empty_like(predicted).scatter_(0, copy_of, predictors)
        return self._scaled(tree_hidden_states(decoder, tree)[predictors]), copy_of

    def _scaled(self, hidden: Tensor) -> Tensor:
        """Hidden states of which the head makes the model's logits, where the model scales those itself."""
        return hidden if self.logit_scale == 1 else hidden * self.logit_scale

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The policy in evaluation mode, and back."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The model that the adapters were added to: the reference of a LoRA run."""
        with self.model.disable_adapter():
            yield

    def weights(self, *, as_saved: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Names and full tensors as plain transformers knows them, tied ones once, adapters merged into copies.

        Where parameters are partitioned over the ranks, one at a time is gathered: every rank must exhaust the
        iterator, and a tensor is valid only until the next is asked for.

        Args:
            as_saved: As the model's files hold them: experts one by one, where transformers fuses them.
        """
        weights = merged_weights(self.base_model) if self.has_adapter else full_weights(self.base_model)
        return in_saved_layout(self.base_model, weights) if as_saved else weights

    def try_attention(self, device: torch.device) -> None:
        """Try, on the device that trains and in its dtype, the attention that no other trial has run.

        What cannot be used is told and replaced, at start-up and not in the middle of an iteration.
        """
        if self.shares_prefixes:
            try_flash_attention(self.base_model.config, device, self.base_model.dtype)

    @property
    def is_partitioned(self) -> bool:
        """Whether the ranks hold parts of the parameters."""
        return any(is_partitioned(parameter) for parameter in self.parameters())

    def whole_copy(self) -> PreTrainedModel:
        """A model of the same shape that this rank holds whole, for sampling; `weights` fills it."""
        own = self.base_model
        model: nn.Module = bare_model(own.config, own.dtype, own.config._attn_implementation)
        copy = cast(PreTrainedModel, model.requires_grad_(False).to(own.device).eval())
        copy.generation_config = own.generation_config  # where its turns end
        return copy

    def save_pretrained(self, folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write a folder that plain transformers loads. The policy itself stays as it is; every rank must call.

        Args:
            folder: Made when missing.
            tokenizer: Written beside the model.
        """
        is_writer = rank() == 0
        state = {name: value.to("cpu", copy=True) for name, value in self.weights() if is_writer}
        if is_writer:
            with self._silence.lifted():
                _save(self.base_model, Path(folder), state)
            tokenizer.save_pretrained(folder)


def _save(model: PreTrainedModel, folder: Path, state: dict[str, Tensor]) -> None:
    """Write a model with its generation settings as they came, which transformers reads but refuses to write.

    (Many published ones ask for a temperature and for greedy search at once.)
    """
    settings = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        model.save_pretrained(folder, state_dict=state)
    finally:
        model.generation_config = settings
    settings.to_json_file(folder / "generation_config.json")


def _can_share_prefixes(model: PreTrainedModel) -> bool:
    """Try it on the model, or on one like it, and say why where it cannot."""
    used = model.config._attn_implementation
    if used == "sdpa":
        model.set_attn_implementation(TREE_ATTENTION)
    reason = why_not_shared(model)
    model.set_attn_implementation(used)
    if reason is not None:
        rank_zero_info(f"What trajectories share is computed for each of them: {reason}.")
    return reason is None
