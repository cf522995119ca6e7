"""The default sampler: `generate` of the policy that is being trained, in the same process.

Requests that wait at the same time run as one batch (`queue`); each trajectory's keys and values are cached between
its turns (`key_values`), so that a turn only computes its new tokens; what contexts of a batch begin with in common,
such as the prompt of a group, is computed once (`prefixes`); tokens are drawn from seeded numbers (`decoding`).

A batch runs in stretches: when half of its rows have ended, their completions are handed out and the others go on as a
smaller batch, so that few rows are computed for nothing.

Left out on purpose: a decode loop of our own (`generate` is within 10% of one); adding rows to a batch that runs.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria

from llds.errors import ConfigurationError
from llds.samplers.base import Sampler, SampleRequest
from llds.samplers.end_of_turn import end_of_turn_ids
from llds.samplers.transformers.decoding import EndOfAction, OpenAction, SeededSampling
from llds.samplers.transformers.key_values import BatchContext, KeyValues, cache_argument, keeps_every_token
from llds.samplers.transformers.prefixes import shared_prefixes
from llds.samplers.transformers.queue import Answered, RequestQueue, Ticket
from llds.types import Completion, StopReason


class TransformersSampler(Sampler):
    """Samples with the trainer's own policy.

    Log-probabilities are those of the sampling law; greedy actions (temperature 0) carry those of temperature 1.

    Args:
        max_batch_size: Most trajectories that are generated at once.
        max_wait_s: Longest time that a batch waits for trajectories that are still at their tools, in seconds. Above
            the tools' latency every batch, and so every run, is reproducible to the bit; 0 never waits.
        keep_cache: Whether to keep keys and values between the turns of a trajectory.
        share_prefixes: Whether to compute once what contexts of a batch begin with in common.

    Attributes:
        forward_tokens: Tokens that went through the model so far, padding and rows that had ended left out.

    Raises:
        ConfigurationError: If a value is out of its range; or, from `sample`, no model is attached.
    """

    can_overlap = True

    def __init__(
        self,
        max_batch_size: int = 256,
        max_wait_s: float = 0.5,
        keep_cache: bool = True,
        share_prefixes: bool = True,
    ) -> None:
        if max_batch_size < 1 or max_wait_s < 0:
            raise ConfigurationError(
                "Expected `rollout.sampler` to have max_batch_size >= 1 and max_wait_s >= 0, "
                f"got {max_batch_size} and {max_wait_s}."
            )
        self.max_batch_size = max_batch_size
        self.max_wait_s = max_wait_s
        self.keep_cache = keep_cache
        self.share_prefixes = share_prefixes
        self.forward_tokens = 0
        self._model: PreTrainedModel | None = None
        self._cache: dict[int, KeyValues] = {}
        self._stop_strings: dict[tuple[str, ...], StopStringCriteria] = {}
        self._queue = RequestQueue(self._generate, max_batch_size, max_wait_s)
        self._is_generating = threading.Lock()

    def attach(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        forward_context: Callable[[], AbstractContextManager[None]] = nullcontext,
        is_live: bool = True,
    ) -> None:
        """Use this model.

        Args:
            model: The policy as a transformers model; of one with adapters, the model that holds them in its layers.
            tokenizer: Its tokenizer.
            forward_context: Context of a forward, such as the trainer's autocast.
            is_live: Whether its weights are those that are being trained, so that an update has nothing to copy.
        """
        self._model = model
        self._tokenizer = tokenizer
        self._forward_context = forward_context
        self._is_live = is_live
        self._end_ids = end_of_turn_ids(model.generation_config, tokenizer)
        self._stop_strings = {}
        self._cache = {}

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Note the version, drop what the old weights computed, and copy the new ones unless they are live."""
        with self._is_generating:  # an interrupted batch ends with its present token
            self._cache.clear()
            if self._model is not None and not self._is_live:
                _copy_weights(self._model, weights)
        self.policy_version = version

    def open_trajectory(self, trajectory: int) -> None:
        """Announce a trajectory: batches wait for it for at most `max_wait_s`."""
        self._queue.open_trajectory(trajectory)

    def close_trajectory(self, trajectory: int) -> None:
        """Drop the trajectory's cache and wait for it no longer."""
        self._queue.close_trajectory(trajectory)
        self._cache.pop(trajectory, None)

    async def sample(self, request: SampleRequest) -> Completion:
        """Queue the request; it runs with those that wait beside it."""
        if self._model is None:
            raise ConfigurationError("Expected a model attached to the sampler, got none. Call attach() first.")
        return await self._queue.submit(request)

    def close(self) -> None:
        """Free caches and thread; waits for a batch that was interrupted to end with its present token."""
        self._queue.close()
        self._cache.clear()

    def _generate(self, tickets: Sequence[Ticket]) -> Iterator[list[Answered]]:
        """Sample the batch in stretches: when half of the rows have ended, the others go on as a smaller batch."""
        model: Any = self._model
        actions = [OpenAction(ticket, self._cache.get(ticket.request.trajectory)) for ticket in tickets]
        if self.share_prefixes and keeps_every_token(model.config):
            with self._generating(model):
                self._compute_shared_prefixes(model, actions)
        while actions and not all(action.ticket.is_abandoned for action in actions):
            with self._generating(model):
                reasons = self._generate_stretch(model, actions)
            yield [
                (action.ticket, Completion(action.token_ids, action.log_probs, reason))
                for action, reason in zip(actions, reasons, strict=True)
                if reason is not None
            ]
            actions = [action for action, reason in zip(actions, reasons, strict=True) if reason is None]

    @contextmanager
    def _generating(self, model: PreTrainedModel) -> Iterator[None]:
        """Around forwards. Left before completions are handed out: the trainer may go on at once with the last."""
        with self._is_generating, self.busy, torch.no_grad(), _evaluating(model), self._forward_context():
            yield

    def _compute_shared_prefixes(self, model: PreTrainedModel, actions: Sequence[OpenAction]) -> None:
        """Give actions without keys and values those of what they have in common; prefixes of one depth are a batch."""
        contexts = {row: action.context for row, action in enumerate(actions) if action.cache is None}
        for _, level in groupby(shared_prefixes(contexts), key=lambda prefix: prefix.depth):
            prefixes = list(level)
            tokens = [contexts[prefix.rows[0]][: prefix.length] for prefix in prefixes]
            batch = BatchContext(tokens, [actions[prefix.rows[0]].cache for prefix in prefixes], self._pad_id)
            computed = batch.compute(model)
            self.forward_tokens += batch.new_tokens
            for prefix, key_values in zip(prefixes, computed, strict=True):
                for row in prefix.rows:
                    actions[row].cache = key_values

    @property
    def _pad_id(self) -> int:
        return self._tokenizer.pad_token_id or 0

    def _generate_stretch(self, model: Any, actions: Sequence[OpenAction]) -> list[StopReason | None]:
        """Extend the actions; returns why each ended, None for those that go on."""
        device = model.device
        contexts, caches = [action.context for action in actions], [action.cache for action in actions]
        context = BatchContext(contexts, caches, self._pad_id)
        cache = context.past_key_values(device) if keeps_every_token(model.config) else None
        law = SeededSampling(actions, device)
        end = EndOfAction(
            actions,
            self._stop_string_criteria(actions[0].ticket.request.stop_strings),
            (*self._end_ids, *actions[0].ticket.request.stop_ids),
            context.width,
            ends_early=cache is not None,
            device=device,
        )
        output = model.generate(
            input_ids=context.input_ids.to(device),
            attention_mask=context.attention_mask.to(device),
            **{cache_argument(model): cache},
            max_new_tokens=max(action.tokens_left for action in actions),
            do_sample=False,  # the law leaves one token to choose
            use_cache=True,
            pad_token_id=self._pad_id,
            logits_processor=LogitsProcessorList([law]),
            stopping_criteria=StoppingCriteriaList([end]),
            return_dict_in_generate=True,
        )
        sampled, log_probs, ends = output.sequences[:, context.width :].tolist(), law.log_probs(), end.ends()
        for row, (action, (length, _)) in enumerate(zip(actions, ends, strict=True)):
            action.token_ids += sampled[row][:length]
            action.log_probs += log_probs[row][:length]
        self._count_forward_tokens(context, ends)
        if cache is not None:
            self._keep(actions, [reason for _, reason in ends], context, cache)
        return [reason for _, reason in ends]

    def _keep(
        self,
        actions: Sequence[OpenAction],
        reasons: Sequence[StopReason | None],
        context: BatchContext,
        cache: Cache,
    ) -> None:
        for row, (action, reason) in enumerate(zip(actions, reasons, strict=True)):
            trajectory = action.ticket.request.trajectory
            if reason is None:
                action.cache = context.take(cache, row, action.context)
            elif self.keep_cache and trajectory in self._queue.open and not action.ticket.is_abandoned:
                self._cache[trajectory] = context.take(cache, row, action.context)

    def _count_forward_tokens(self, context: BatchContext, ends: Sequence[tuple[int, StopReason | None]]) -> None:
        last = max(length for length, _ in ends)  # the token of the last step has not been through the model
        self.forward_tokens += context.new_tokens + sum(min(length, last - 1) for length, _ in ends)

    def _stop_string_criteria(self, stop_strings: tuple[str, ...]) -> StopStringCriteria | None:
        if not stop_strings:
            return None
        if stop_strings not in self._stop_strings:  # made once: it reads the whole vocabulary
            self._stop_strings[stop_strings] = StopStringCriteria(self._tokenizer, list(stop_strings))
        return self._stop_strings[stop_strings]


@torch.no_grad()
def _copy_weights(model: PreTrainedModel, weights: Iterable[tuple[str, Tensor]]) -> None:
    own = model.state_dict(keep_vars=True)
    for name, value in weights:
        own[name].copy_(value)


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Put the model into evaluation mode, without the generation settings that it was saved with.

    Those may hold a repetition penalty or a list of suppressed tokens, of which the trainer knows nothing.
    """
    was_training, settings = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = settings
        model.train(was_training)
