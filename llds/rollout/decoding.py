"""What `generate` is told: how the next token is chosen, and when an action ends.

Tokens are drawn from numbers that each request's seed fixes (inverse of the cumulative distribution), so that an action
depends neither on the batch that it ran in nor on what ran before.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.generation.logits_process import LogitsProcessor, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.stopping_criteria import StoppingCriteria, StopStringCriteria

from llds.rollout.request_queue import Ticket
from llds.types import SamplingParams, StopReason


class SeededSampling(LogitsProcessor):
    """Chooses the next token by the sampling law and each row's own uniform numbers; records its log-probability.

    Args:
        tickets: The requests of the batch; they share their sampling law.
        device: Where the logits are.
    """

    def __init__(self, tickets: Sequence[Ticket], device: torch.device) -> None:
        requests = [ticket.request for ticket in tickets]
        self.params: SamplingParams = requests[0].sampling
        self._recorded: list[Tensor] = []
        # A row that has ended before the others goes on drawing; its zeros choose tokens that are cut off.
        uniforms = torch.zeros(len(requests), max(request.max_tokens for request in requests), dtype=torch.float64)
        if self.params.temperature > 0:
            for row, request in enumerate(requests):
                uniforms[row, : request.max_tokens] = torch.from_numpy(request.uniforms())
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

    def log_probs(self) -> Tensor:
        """Log-probabilities of the tokens that were chosen, ``[B, steps]``."""
        return torch.stack(self._recorded, dim=1).float().cpu()


class EndOfAction(StoppingCriteria):
    """Ends each row at a closing tag, at the end-of-sequence token or at its own limit; remembers where and why.

    Only sampled tokens count: a context that ends like the beginning of a tag completes none.

    Args:
        tickets: The requests of the batch.
        stop_strings: Finds closing tags.
        eos_token_id: The end-of-sequence token, if there is one.
        context_width: Columns before the first sampled token.
        device: Where the tokens are.
    """

    def __init__(
        self,
        tickets: Sequence[Ticket],
        stop_strings: StopStringCriteria,
        eos_token_id: int | None,
        context_width: int,
        device: torch.device,
    ) -> None:
        self._tickets = tickets
        self._stop_strings = stop_strings
        self.eos_token_id = eos_token_id  # `generate` pads ended rows if a criterion has an attribute of this name
        self._context_width = context_width
        self._limits = torch.tensor([ticket.request.max_tokens for ticket in tickets], device=device)
        self._ends = torch.zeros_like(self._limits)  # 0 while the row goes on
        self._at_tag = torch.zeros_like(self._limits, dtype=torch.bool)
        self._at_eos = torch.zeros_like(self._at_tag)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Return which rows have ended, ``[B]`` bool; all of them once nobody waits for any."""
        sampled = input_ids[:, self._context_width :]
        at_tag = self._stop_strings(sampled, scores)
        at_eos = (sampled[:, -1] == (-1 if self.eos_token_id is None else self.eos_token_id)) & ~at_tag
        goes_on = self._ends == 0
        self._at_tag |= at_tag & goes_on
        self._at_eos |= at_eos & goes_on
        ended = (at_tag | at_eos | (sampled.shape[1] >= self._limits)) & goes_on
        self._ends.masked_fill_(ended, sampled.shape[1])
        if all(ticket.is_abandoned for ticket in self._tickets):
            return torch.ones_like(ended)
        return self._ends > 0

    def ends(self) -> list[tuple[int, StopReason]]:
        """Number of tokens of each row's action, and why it ended there."""
        rows = zip(self._ends.tolist(), self._at_tag.tolist(), self._at_eos.tolist(), strict=True)
        return [(end, "stop" if at_tag else "eos" if at_eos else "length") for end, at_tag, at_eos in rows]
