"""What estimators and selections ask of the old policy's head, beside log-probs and entropies: influence and proxy.

Collective: every rank must call, and gets the whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from llds.batches.micro_batches import MicroBatchLimits
from llds.batches.policy_batch import PolicyBatch
from llds.losses import Advantages, Selection
from llds.losses.advantages.influence import influence_on
from llds.losses.advantages.tokens import groups_of
from llds.losses.log_probs import HeadTokens, proxy_log_probs, scatter_to_tokens
from llds.losses.selections.selection import proxy_share
from llds.modules.policy.policy import Policy
from llds.strategies import gathered, rank, sum_over_ranks, world_size


class HeadReading:
    """Reads the distributions at action tokens.

    Args:
        policy: Read, with the weights that it has now.
        limits: Of its micro-batches.
        temperature: Divides the logits.
    """

    def __init__(self, policy: Policy, limits: MicroBatchLimits, temperature: float) -> None:
        self.policy = policy
        self.limits = limits
        self.temperature = temperature

    def with_influence(self, batch: PolicyBatch, estimator: Advantages | None) -> PolicyBatch:
        """The batch, wherever it is, with the influence of its tokens, where the estimator reads it."""
        if estimator is None or not estimator.reads_influence:
            return batch
        with self.policy.evaluating():
            influence = self.influence(batch.to(next(self.policy.parameters()).device))
        return replace(batch, influence=influence.to(batch.rewards.device))

    def with_proxy(self, batch: PolicyBatch, selections: Sequence[Selection]) -> PolicyBatch:
        """The batch with the proxy's log-probs of its tokens, where selections read them."""
        share = proxy_share(selections)
        if share is None:
            return batch
        with self.policy.evaluating():
            return replace(batch, old_proxy=self.proxy(batch, share))

    @torch.no_grad()
    def influence(self, batch: PolicyBatch) -> Tensor:
        """What raising each action token does to the right trajectories of its group (`influence_on`), ``[B, T]``.

        Args:
            batch: The trajectories of an iteration, on the policy's device.
        """
        found = torch.zeros(batch.input_ids.shape, dtype=self.policy.score_dtype, device=batch.input_ids.device)
        for rows in groups_of(batch.groups):
            group = batch.rows(rows)
            is_right = group.correct.unsqueeze(1).expand_as(group.action_mask)[group.action_mask]
            if not is_right.any() or is_right.all():
                continue  # there is nothing to compare
            tokens = self._tokens(group, sum_over_ranks(self._hidden(group)))
            with self._whole_head():
                values = influence_on(tokens, is_right)
            found[rows, : group.input_ids.shape[1]] = scatter_to_tokens(values, group.action_index)
        return found

    @torch.no_grad()
    def proxy(self, batch: PolicyBatch, share: float) -> Tensor:
        """Log-probs without what is unlikely (`proxy_log_probs`), 0 off the actions, ``[B, T]``.

        Args:
            batch: The trajectories of an iteration, on the policy's device.
            share: Of the likeliest token's probability, below which tokens are left out.
        """
        found = torch.zeros(batch.input_ids.shape, dtype=self.policy.score_dtype, device=batch.input_ids.device)
        for rows, part in self._micro_batches(batch):
            hidden = self.policy.hidden_before_actions(part)
            with self._whole_head():
                values = proxy_log_probs(self._tokens(part, hidden), share)
            found[rows, : part.input_ids.shape[1]] = scatter_to_tokens(values, part.action_index)[: len(rows)]
        return sum_over_ranks(found)

    def _hidden(self, batch: PolicyBatch) -> Tensor:
        """Hidden state before each action token, row by row, ``[N, H]``; 0 where another rank has it."""
        lengths = batch.action_mask.sum(1)
        ends = lengths.cumsum(0)
        width = self.policy.base_model.get_output_embeddings().in_features
        found = torch.zeros(int(ends[-1]), width, dtype=self.policy.score_dtype, device=batch.input_ids.device)
        for rows, part in self._micro_batches(batch):
            hidden = self.policy.hidden_before_actions(part).to(found.dtype)
            places = [torch.arange(int(ends[row] - lengths[row]), int(ends[row])) for row in rows.tolist()]
            if places:
                found[torch.cat(places)] = hidden
        return found

    def _micro_batches(self, batch: PolicyBatch) -> list[tuple[Tensor, PolicyBatch]]:
        return list(batch.micro_batches(self.limits, rank(), world_size(), packed=self.policy.shares_prefixes))

    @contextmanager
    def _whole_head(self) -> Iterator[None]:
        """The head's parameters on every rank, and products in their precision, without autocast."""
        parameters = list(self.policy.base_model.get_output_embeddings().parameters())
        with gathered(parameters), torch.autocast(parameters[0].device.type, enabled=False):
            yield

    def _tokens(self, batch: PolicyBatch, hidden: Tensor) -> HeadTokens:
        head = self.policy.base_model.get_output_embeddings()
        return HeadTokens(hidden, batch.input_ids[batch.action_mask], head.weight, head.bias, self.temperature)
