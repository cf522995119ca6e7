"""The default sampler: `generate` of the policy that is being trained, in the same process.

Requests that wait at the same moment run as one batch; each trajectory's keys and values are kept between its turns, so
that a turn only computes its new tokens. Sampling draws from numbers that the request's seed fixes (inverse of the
cumulative distribution), so that an action does not depend on the batch it ran in or on what ran before.

Left out on purpose: a decode loop of our own (`generate` is within 10% of one).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria

from llds.errors import ConfigurationError, SamplerError
from llds.rollout.sampler import Sampler, SampleRequest
from llds.types import Completion, SamplingParams, StopReason

KeyValues = list[tuple[Tensor, Tensor]]
"""Keys and values of one trajectory by layer, each ``[heads, tokens, head size]``."""


class TransformersSampler(Sampler):
    """Samples with the trainer's own policy.

    Args:
        max_batch_size: Most trajectories that are generated at once.
        max_wait_s: Longest time that a batch waits for trajectories that are still at their tools, in seconds. Above
            the tools' latency every batch, and so every run, is reproducible to the bit; 0 never waits.
        keep_cache: Whether to keep keys and values between the turns of a trajectory.
    """

    def __init__(self, max_batch_size: int = 256, max_wait_s: float = 0.5, keep_cache: bool = True) -> None:
        if max_batch_size < 1 or max_wait_s < 0:
            raise ConfigurationError(
                "Expected `rollout.sampler` to have max_batch_size >= 1 and max_wait_s >= 0, "
                f"got {max_batch_size} and {max_wait_s}."
            )
        self.max_batch_size = max_batch_size
        self.max_wait_s = max_wait_s
        self.keep_cache = keep_cache
        self.forward_tokens = 0
        self._open: set[int] = set()
        self._cache: dict[int, KeyValues] = {}
        self._pending: list[tuple[SampleRequest, asyncio.Future[Completion]]] = []
        self._arrived = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._stops: dict[tuple[str, ...], _RecordedStops] = {}

    def attach(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        forward_context: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Use this model; its weights are live, so an update only changes the version.

        Args:
            model: The policy as a transformers model (or its peft wrapper).
            tokenizer: Its tokenizer.
            forward_context: Context of a forward, such as the trainer's autocast.
        """
        self.model = model
        self.tokenizer = tokenizer
        self._forward_context = forward_context
        self._stops = {}

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Note the version: the weights are the trainer's own."""
        self.policy_version = version

    def open_trajectory(self, trajectory: int) -> None:
        """Announce a trajectory: batches wait for it for at most `max_wait_s`."""
        self._open.add(trajectory)

    def close_trajectory(self, trajectory: int) -> None:
        """Drop the trajectory's cache and whatever it still waits for."""
        self._open.discard(trajectory)
        self._cache.pop(trajectory, None)
        self._pending = [item for item in self._pending if item[0].trajectory != trajectory]
        self._arrived.set()

    async def sample(self, request: SampleRequest) -> Completion:
        """Queue the request; it runs with those that wait beside it."""
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._pending.append((request, future))
        self._arrived.set()
        if self._runner is None or self._runner.done():
            self._arrived = asyncio.Event()
            self._runner = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._pending:
            await self._wait_for_batch()
            self._pending.sort(key=lambda item: item[0].trajectory)
            law = (self._pending[0][0].sampling, self._pending[0][0].stop_strings)
            alike = [item for item in self._pending if (item[0].sampling, item[0].stop_strings) == law]
            batch = alike[: self.max_batch_size]
            self._pending = [item for item in self._pending if item not in batch]
            await self._serve(batch)

    async def _wait_for_batch(self) -> None:
        deadline = time.monotonic() + self.max_wait_s
        while len(self._pending) < min(len(self._open), self.max_batch_size):
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), max(deadline - time.monotonic(), 0))
            except TimeoutError:
                return

    async def _serve(self, batch: list[tuple[SampleRequest, "asyncio.Future[Completion]"]]) -> None:
        try:
            completions = await asyncio.to_thread(self._generate, [request for request, _ in batch])
        except Exception as error:  # whatever stops the engine belongs to the requests that wait for it
            for _, future in batch:
                if not future.done():
                    future.set_exception(SamplerError(f"`generate` failed: {type(error).__name__}: {error}"))
            return
        for (_, future), completion in zip(batch, completions, strict=True):
            if not future.done():
                future.set_result(completion)

    @torch.no_grad()
    def _generate(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        model, was_training = self.model, self.model.training
        model.eval()
        try:
            with self._forward_context():
                return self._generate_batch(requests)
        finally:
            model.train(was_training)

    def _generate_batch(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        device = self.model.device
        context = _Context(
            [(r.token_ids, self._cache.get(r.trajectory)) for r in requests], self.tokenizer.pad_token_id
        )
        max_tokens = max(request.max_tokens for request in requests)
        law = _SeededSampling(requests, max_tokens, device)
        stops = self._recorded_stops(requests[0].stop_strings)
        stops.reset(len(requests), context.width)
        output = self.model.generate(
            input_ids=context.input_ids.to(device),
            attention_mask=context.attention_mask.to(device),
            past_key_values=context.past_key_values(device),
            max_new_tokens=max_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            logits_processor=LogitsProcessorList([law]),
            stopping_criteria=StoppingCriteriaList([stops]),
            return_dict_in_generate=True,
        )
        sampled = output.sequences[:, context.width :].cpu()
        self.forward_tokens += int(context.new_lengths.sum()) + sampled.numel() - len(requests)
        completions = [
            self._completion(request, sampled[row], law.log_probs(row), int(stops.ends[row]))
            for row, request in enumerate(requests)
        ]
        if self.keep_cache and _is_sliceable(output.past_key_values):
            self._keep(requests, completions, context, output.past_key_values)
        return completions

    def _completion(self, request: SampleRequest, sampled: Tensor, log_probs: Tensor, stop: int) -> Completion:
        ids = sampled.tolist()
        eos = ids.index(self.tokenizer.eos_token_id) + 1 if self.tokenizer.eos_token_id in ids else len(ids) + 1
        end = min(stop, eos, request.max_tokens)
        reason: StopReason = "stop" if end == stop else "eos" if end == eos else "length"
        return Completion(ids[:end], log_probs[:end].tolist(), reason)

    def _keep(
        self,
        requests: Sequence[SampleRequest],
        completions: Sequence[Completion],
        context: "_Context",
        cache: DynamicCache,
    ) -> None:
        cached = cache.get_seq_length()
        for row, (request, completion) in enumerate(zip(requests, completions, strict=True)):
            if request.trajectory not in self._open:
                continue
            # The last token that any row sampled has not been through the model.
            new = torch.arange(context.width, min(context.width + len(completion.token_ids), cached))
            positions = torch.cat([context.attention_mask[row].nonzero()[:, 0], new]).to(self.model.device)
            self._cache[request.trajectory] = [
                (layer.keys[row].index_select(1, positions), layer.values[row].index_select(1, positions))
                for layer in cache.layers
            ]

    def _recorded_stops(self, stop_strings: tuple[str, ...]) -> "_RecordedStops":
        if stop_strings not in self._stops:
            self._stops[stop_strings] = _RecordedStops(self.tokenizer, list(stop_strings))
        return self._stops[stop_strings]


class _Context:
    """Contexts of a batch, each as cached tokens then new tokens, both padded on the left."""

    def __init__(self, rows: Sequence[tuple[list[int], KeyValues | None]], pad_id: int) -> None:
        self.caches = [cache for _, cache in rows]
        cached = [cache[0][0].shape[1] if cache else 0 for cache in self.caches]
        self.new_lengths = torch.tensor([len(ids) - n for (ids, _), n in zip(rows, cached, strict=True)])
        self.cached_width = max(cached)
        self.width = self.cached_width + int(self.new_lengths.max())
        self.input_ids = torch.full((len(rows), self.width), pad_id)
        self.attention_mask = torch.zeros((len(rows), self.width), dtype=torch.long)
        for row, ((ids, _), n) in enumerate(zip(rows, cached, strict=True)):
            for start, stop, part in ((self.cached_width - n, self.cached_width, ids[:n]), (None, self.width, ids[n:])):
                begin = stop - len(part) if start is None else start
                self.input_ids[row, begin:stop] = torch.tensor(part, dtype=torch.long)
                self.attention_mask[row, begin:stop] = 1

    def past_key_values(self, device: torch.device) -> DynamicCache | None:
        """The rows' caches as one; None when no row has any."""
        filled = next((cache for cache in self.caches if cache), None)
        if filled is None:
            return None
        merged = DynamicCache()
        for layer in range(len(filled)):
            both = []
            for part in (0, 1):
                heads, _, size = filled[layer][part].shape
                padded = filled[layer][part].new_zeros(len(self.caches), heads, self.cached_width, size)
                for row, cache in enumerate(self.caches):
                    if cache:
                        padded[row, :, self.cached_width - cache[layer][part].shape[1] :] = cache[layer][part]
                both.append(padded.to(device))
            merged.update(both[0], both[1], layer)
        return merged


class _SeededSampling(LogitsProcessor):
    """Chooses the next token by the sampling law and each row's own uniform numbers; records its log-probability."""

    def __init__(self, requests: Sequence[SampleRequest], max_tokens: int, device: torch.device) -> None:
        self.params: SamplingParams = requests[0].sampling
        self.step = 0
        self.recorded: list[Tensor] = []
        self.uniforms = torch.zeros(len(requests), max_tokens, dtype=torch.float64)
        if self.params.temperature > 0:
            for row, request in enumerate(requests):
                self.uniforms[row, : request.max_tokens] = torch.from_numpy(request.uniforms())
        self.uniforms = self.uniforms.to(device)
        self.warpers: list[LogitsProcessor] = []
        if self.params.top_k > 0:
            self.warpers.append(TopKLogitsWarper(self.params.top_k))
        if self.params.top_p < 1:
            self.warpers.append(TopPLogitsWarper(self.params.top_p))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores that leave the chosen token alone."""
        greedy = self.params.temperature == 0
        scores = scores if greedy else scores / self.params.temperature
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        log_probs = scores.log_softmax(dim=-1)
        chosen = log_probs.argmax(dim=-1) if greedy else self._draw(log_probs)
        self.recorded.append(log_probs.gather(1, chosen[:, None])[:, 0])
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def _draw(self, log_probs: Tensor) -> Tensor:
        # float64, so that rounding of the running sum reaches no token above a probability of 1e-12
        cumulative = log_probs.double().exp().cumsum(dim=-1)
        threshold = self.uniforms[:, self.step, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
        return chosen.clamp(max=log_probs.shape[-1] - 1)

    def log_probs(self, row: int) -> Tensor:
        """Log-probabilities of the tokens that a row chose, ``[steps]``."""
        return torch.stack([step[row] for step in self.recorded]).float().cpu()


class _RecordedStops(StopStringCriteria):
    """Stops at closing tags and remembers after how many tokens each row did."""

    def reset(self, rows: int, context_width: int) -> None:
        self.context_width = context_width
        self.ends = torch.full((rows,), torch.iinfo(torch.long).max)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        done = super().__call__(input_ids, scores)
        length = input_ids.shape[1] - self.context_width
        self.ends = torch.where(done.cpu(), self.ends.clamp(max=length), self.ends)
        return done


def _is_sliceable(cache: object) -> bool:
    """Whether the cache holds every token of every layer (not so for sliding windows and state-space layers)."""
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
