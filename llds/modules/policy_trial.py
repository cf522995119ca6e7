"""What a policy must keep, tried on itself: a second at the start instead of a surprise after hours.

Its log-probabilities are the same in training and in evaluation mode, and a row's do not depend on the rows beside it;
its weights have the names and shapes that plain transformers gives them; what is exported loads there again.

Left out on purpose: whether it is a good model, and whether a sampler agrees with it (the canary of `llds.samplers`).
"""

from contextlib import AbstractContextManager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from llds.batches import PolicyBatch
from llds.errors import ConfigurationError, LLDSError
from llds.files import FROM_FOLDER
from llds.files.rows import reason
from llds.modules.policy import Policy
from llds.strategies import whole_shape

_SHORT, _LONG = 48, 512
"""Tokens of the short row, and least tokens of the long one where trajectories are as long."""
_WORK = {"cpu": 1e11, "cuda": 4e14}
"""Multiplications of the forward with the long row: a few seconds on a few cores, one on a GPU."""
_WAY_OUT = "`policy_check.enabled: false` leaves this check out."
_EXPORTED_BYTES = 2**28
"""Largest model that is written as a whole."""
_TOLERANCES = {"bfloat16": 0.3}
_TOLERANCE = 1e-3
"""Nats by which batches of other shapes may differ: their sums are in another order."""


class PolicyTrial:
    """The checks of one policy.

    Args:
        policy: On the device on which it trains.
        tokenizer: Its tokenizer.
        dtype: In which it computes.
        forward_context: Of its forwards, such as autocast.
    """

    def __init__(
        self,
        policy: Policy,
        tokenizer: PreTrainedTokenizerBase,
        dtype: str,
        forward_context: AbstractContextManager[Any],
    ) -> None:
        self._policy = policy
        self._tokenizer = tokenizer
        self._tolerance = _TOLERANCES.get(dtype, _TOLERANCE)
        self._forward_context = forward_context

    @torch.no_grad()
    def log_probs(self, device: torch.device, total_tokens: int) -> int:
        """Check the log-probabilities; a collective operation where parameters are in parts.

        Args:
            device: Where the policy is.
            total_tokens: Most tokens of a trajectory.

        Returns:
            Tokens of the longest row that was tried: fewer than a trajectory's most where that is too much work.

        Raises:
            ConfigurationError: If they depend on the mode or on neighbors.
        """
        length = min(total_tokens, max(_LONG, int(_WORK.get(device.type, 4e14) / (2 * self._parameters))))
        short = min(_SHORT, length)
        batch = _random_batch(length, short, len(self._tokenizer)).to(device)
        alone = batch.rows(torch.tensor([1], device=device))
        with self._forward_context:
            with self._policy.evaluating():
                scored, again, beside = self._score(alone), self._score(alone), self._score(batch)[1:, :short]
            trained = self._score(alone)
        repeats = _gap(scored, again)  # above 0 where a device sums in an order that varies
        if not (gap := _gap(scored, trained)) <= 1e-5 + 10 * repeats:
            raise ConfigurationError(
                "Expected log-probabilities of `model.policy` to be the same in training and in evaluation mode, got a "
                f"difference of {gap:.3g} nats: something in {self._name} is random or differs while it trains "
                "(dropout, noise, a training-only branch). Switch it off in the model's config.json, or choose another "
                f"model. {_WAY_OUT}"
            )
        if not (gap := _gap(scored, beside)) <= self._tolerance:
            raise ConfigurationError(
                f"Expected log-probabilities of a row of {short} tokens under `model.policy` not to depend on the row "
                f"beside it, got a difference of {gap:.3g} nats beside one of {length} tokens "
                f"(`rollout.limits.total_tokens`: {total_tokens}): {self._name} mixes rows, or changes its positions "
                "with the longest. Try `model.share_prefixes: false`, another `model.attention`, or a lower limit. "
                f"{_WAY_OUT}"
            )
        return length

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights that would be exported; a collective operation like `log_probs`."""
        return {name: tuple(value.shape) for name, value in self._policy.weights()}

    def export(self, folder: Path, shapes: dict[str, tuple[int, ...]]) -> bool:
        """Check what would be exported, on one rank.

        Args:
            folder: Where there is room for a while; it stays as it was.
            shapes: Of the weights.

        Returns:
            Whether a whole model was written and read; else only names, shapes and the tokenizer.

        Raises:
            ConfigurationError: If plain transformers would not load the policy.
        """
        self._check_names(shapes)
        size = sum(whole_shape(one).numel() * one.element_size() for one in self._policy.base_model.parameters())
        is_whole = size <= _EXPORTED_BYTES and not self._policy.is_partitioned
        with TemporaryDirectory(dir=folder, prefix=".policy_check-") as place:
            try:
                self._write_and_read(Path(place), is_whole)
            except Exception as error:  # of transformers, safetensors or the tokenizer: any of them ends a run
                if isinstance(error, LLDSError) or (isinstance(error, OSError) and error.errno):
                    raise
                raise ConfigurationError(
                    f"Expected `model.policy` to be exported to a folder that loads again, got: {reason(error)}. Load "
                    f"the model in plain transformers and save it again, or choose another one. {_WAY_OUT}"
                ) from error
        return is_whole

    @property
    def _name(self) -> str:
        return type(self._policy.base_model).__name__

    @property
    def _parameters(self) -> int:
        return sum(whole_shape(one).numel() for one in self._policy.parameters())

    def _score(self, batch: PolicyBatch) -> Tensor:
        return self._policy(batch).log_probs.float().cpu()

    def _check_names(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Refuse weights that plain transformers would not know, or would miss."""
        with torch.device("meta"):
            plain: nn.Module = AutoModelForCausalLM.from_config(deepcopy(self._policy.base_model.config))
        expected = {name: tuple(value.shape) for name, value in plain.named_parameters()}
        differing = [name for name in expected if shapes.get(name) != expected[name]]
        unknown = shapes.keys() - expected.keys() - plain.state_dict().keys()
        if differing or unknown:
            raise ConfigurationError(
                f"Expected the weights of `model.policy` to have the names and shapes of a plain {self._name}, got "
                f"{len(differing)} that are missing or of another shape and {len(unknown)} unknown ones "
                f"({sorted([*differing, *unknown])[0]}): an exported policy would not load. Choose other "
                f"`model.lora.target_modules`, or another model. {_WAY_OUT}"
            )

    def _write_and_read(self, folder: Path, is_whole: bool) -> None:
        """Write model, or settings alone, and tokenizer, as at the end of a run; read them in plain transformers."""
        self._tokenizer.save_pretrained(folder)
        if not is_whole:
            self._policy.base_model.config.save_pretrained(folder)
            return
        self._policy.save_pretrained(folder, self._tokenizer)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=self._policy.base_model.dtype, output_loading_info=True, **FROM_FOLDER
        )
        model, report = loaded
        faults = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report[kind]]
        read = dict(model.named_parameters())
        faults += [
            name for name, value in self._policy.weights() if not torch.equal(read.get(name, value), value.cpu())
        ]
        if faults:
            raise ConfigurationError(
                f"Expected an exported `model.policy` to load in plain transformers with the weights that it has, got "
                f"{len(faults)} that are missing, unknown or other ({faults[0]}). Choose other "
                f"`model.lora.target_modules`, or another model. {_WAY_OUT}"
            )


def _random_batch(long: int, short: int, vocabulary: int) -> PolicyBatch:
    """A long and a short row of random tokens, the second half of which are actions."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, long), generator=generator)
    lengths, places = torch.tensor([[long], [short]]), torch.arange(long)[None]
    is_action = (places >= lengths - short // 2) & (places < lengths)
    nothing = torch.zeros(2, long)
    return PolicyBatch(
        input_ids=ids * (places < lengths),
        attention_mask=(places < lengths).long(),
        action_index=torch.where(is_action, 0, -1),
        answer_mask=torch.zeros(2, long, dtype=torch.bool),
        behavior_log_probs=nothing,
        rewards=torch.zeros(2),
        correct=torch.zeros(2, dtype=torch.bool),
        advantages=torch.zeros(2),
        groups=torch.zeros(2, dtype=torch.long),
    )


def _gap(one: Tensor, other: Tensor) -> float:
    """The largest difference; not a number where one of them is none."""
    return float((one - other).abs().max())
