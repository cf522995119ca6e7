"""What `generate` is told: how the next token is chosen, and when an action ends.

Tokens are drawn from numbers that each request's seed fixes (inverse of the cumulative distribution), so that an action
depends neither on the batch that it ran in nor on what ran before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.generation.logits_process import LogitsProcessor, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.stopping_criteria import StoppingCriteria, StopStringCriteria

from llds.samplers.transformers.key_values import KeyValues
from llds.samplers.transformers.queue import Ticket
from llds.types import SamplingParams, StopReason

_FEW_ROWS = 8
"""So many rows cost hardly more than one: no stretch ends before all of them have."""


@dataclass
class OpenAction:
    """An action that is being sampled, over several stretches of generation.

    Attributes:
        ticket: The request.
        cache: Keys and values of its context, where there are any.
        token_ids: Sampled so far.
        log_probs: Their log-probabilities, in nats.
    """

    ticket: Ticket
    cache: KeyValues | None
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    @property
    def context(self) -> list[int]:
        """All tokens before the next."""
        return self.ticket.request.token_ids + self.token_ids

    @property
    def tokens_left(self) -> int:
        """Most tokens that it may still get."""
        return self.ticket.request.max_tokens - len(self.token_ids)


class SeededSampling(LogitsProcessor):
    """Chooses the next token by the sampling law and each row's own uniform numbers; records its log-probability.

    Args:
        actions: The rows of the batch; they share their sampling law.
        device: Where the logits are.
    """

    def __init__(self, actions: Sequence[OpenAction], device: torch.device) -> None:
        self.params: SamplingParams = actions[0].ticket.request.sampling
        self._recorded: list[Tensor] = []
        # A row that has ended before the others goes on drawing; its zeros choose tokens that are cut off.
        uniforms = torch.zeros(len(actions), max(action.tokens_left for action in actions), dtype=torch.float64)
        if self.params.temperature > 0:
            for row, action in enumerate(actions):
                left = torch.from_numpy(action.ticket.request.uniforms())[len(action.token_ids) :]
                uniforms[row, : len(left)] = left
        self._uniforms = uniforms.to(device)
        self._warpers: list[LogitsProcessor] = []
        if self.params.top_k > 0:
            self._warpers.append(TopKLogitsWarper(self.params.top_k))
        if self.params.top_p < 1:
            self._warpers.append(TopPLogitsWarper(self.params.top_p))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores that leave the chosen token alone, ``[B, vocabulary]``."""
        is_greedy = self.params.temperature == 0
        scores = scores if is_greedy else scores / self.params.temperature
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        log_probs = scores.log_softmax(dim=-1)
        chosen = log_probs.argmax(dim=-1, keepdim=True) if is_greedy else self._draw(log_probs)  # [B, 1]
        self._recorded.append(log_probs.gather(1, chosen)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def _draw(self, log_probs: Tensor) -> Tensor:
        # Summed in float64, so that a rounded sum cannot hide the tokens at the end of a large vocabulary.
        cumulative = log_probs.exp().cumsum(dim=-1, dtype=torch.float64)
        threshold = self._uniforms[:, len(self._recorded), None] * cumulative[:, -1:]
        # The first token whose sum is above the threshold: never one of probability 0.
        return torch.searchsorted(cumulative, threshold, right=True).clamp(max=log_probs.shape[-1] - 1)

    def log_probs(self) -> list[list[float]]:
        """Log-probabilities of the tokens that were chosen, by row."""
        return torch.stack(self._recorded, dim=1).float().tolist()


class EndOfAction(StoppingCriteria):
    """Ends each row at a closing tag, at a token that ends a turn or at its own limit; remembers where and why.

    Only sampled tokens count: a context that ends like the beginning of a tag completes none.

    Args:
        actions: The rows of the batch.
        stop_strings: Finds closing tags; None where actions end at tokens only.
        end_ids: Ids of the tokens that end a turn.
        context_width: Columns before the first token of this stretch.
        ends_early: Whether the stretch ends as soon as half of its rows have.
        device: Where the tokens are.
    """

    def __init__(
        self,
        actions: Sequence[OpenAction],
        stop_strings: StopStringCriteria | None,
        end_ids: Sequence[int],
        context_width: int,
        ends_early: bool,
        device: torch.device,
    ) -> None:
        self._actions = actions
        self._stop_strings = stop_strings
        # `generate` pads ended rows if a criterion has an attribute of this name
        self.eos_token_id = torch.tensor(end_ids, dtype=torch.long, device=device)
        self._context_width = context_width
        self._enough = len(actions) / 2 if ends_early and len(actions) > _FEW_ROWS else len(actions)
        self._starts = torch.tensor([[context_width - len(action.token_ids)] for action in actions], device=device)
        self._limits = torch.tensor([action.tokens_left for action in actions], device=device)
        self._ends = torch.zeros_like(self._limits)  # 0 while the row goes on
        self._at_tag = torch.zeros_like(self._limits, dtype=torch.bool)
        self._at_eos = torch.zeros_like(self._at_tag)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Return which rows have ended, ``[B]`` bool; all of them where the stretch ends."""
        length = input_ids.shape[1] - self._context_width
        at_tag = self._at_stop_string(input_ids, scores)
        at_eos = torch.isin(input_ids[:, -1], self.eos_token_id) & ~at_tag
        goes_on = self._ends == 0
        self._at_tag |= at_tag & goes_on
        self._at_eos |= at_eos & goes_on
        self._ends.masked_fill_((at_tag | at_eos | (length >= self._limits)) & goes_on, length)
        ended = self._ends > 0
        if int(ended.sum()) >= self._enough or all(action.ticket.is_abandoned for action in self._actions):
            return torch.ones_like(ended)
        return ended

    def _at_stop_string(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._stop_strings is None:
            return torch.zeros_like(self._at_tag)
        sampled = self._sampled(input_ids, self._stop_strings.maximum_token_len)
        at_tag: Tensor = self._stop_strings(sampled, scores)
        return at_tag

    def _sampled(self, input_ids: Tensor, most_tokens: int) -> Tensor:
        """The last tokens, with those that were not sampled replaced by a number beyond the vocabulary."""
        window = min(most_tokens, input_ids.shape[1])
        columns = torch.arange(input_ids.shape[1] - window, input_ids.shape[1], device=input_ids.device)
        return input_ids[:, -window:].masked_fill(columns < self._starts, torch.iinfo(torch.long).max)

    def ends(self) -> list[tuple[int, StopReason | None]]:
        """Number of tokens that each row got in this stretch and why its action ended there; None if it goes on."""
        steps = int(self._ends.max())
        rows = zip(self._ends.tolist(), self._at_tag.tolist(), self._at_eos.tolist(), strict=True)
        reasons: list[tuple[int, StopReason | None]] = []
        for end, at_tag, at_eos in rows:
            reason: StopReason = "stop" if at_tag else "eos" if at_eos else "length"
            reasons.append((end, reason) if end else (steps, None))
        return reasons
