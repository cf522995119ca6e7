"""The sampler gets the policy's present weights, and proves that it computes with them.

Three proofs, at every update, before any action is sampled: the worker's receipt (every tensor arrived unchanged and
was loaded), the prefix cache's reset, and the canary's log-probabilities against the trainer's own. The canary has
two texts, and the run stops where neither is in order: one unlucky text is no proof.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import lightning.pytorch as pl

from llds.batches.policy_batch import collate
from llds.files import model_folder
from llds.modules import SearchAgentModule
from llds.samplers import SampledPolicy, Sampler, SampleRequest, TransformersSampler
from llds.samplers.canary import Canary, CanaryLimits, canary_trajectory, mean_gap
from llds.strategies import ends_within, rank, together
from llds.types import Completion, SamplingParams


def sampled_policy(trainer: pl.Trainer, pl_module: SearchAgentModule, max_tokens: int) -> SampledPolicy:
    """What the sampler must know of the policy.

    Args:
        trainer: The trainer of the run.
        pl_module: Its module; the weights need not be loaded.
        max_tokens: Most tokens of a trajectory.
    """
    return SampledPolicy(
        folder=model_folder(pl_module.policy_path, "model.policy"),
        tokenizer=pl_module.tokenizer,
        dtype="bfloat16" if str(trainer.precision).startswith("bf16") else pl_module.policy_dtype,
        max_tokens=max_tokens,
        logs=Path(trainer.default_root_dir),
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        devices=tuple(trainer.device_ids) if trainer.strategy.root_device.type == "cuda" else (),
    )


def attach_policy(sampler: Sampler, pl_module: SearchAgentModule, *, beside_training: bool) -> None:
    """Give a sampler that computes in this process the policy, or a copy of it; others have engines of their own.

    Args:
        sampler: The sampler.
        pl_module: Has the policy; the weights are loaded.
        beside_training: Whether it samples while the policy is trained, so that it needs its own weights.
    """
    if isinstance(sampler, TransformersSampler):
        has_copy = beside_training or pl_module.policy.is_partitioned
        model = pl_module.policy.whole_copy() if has_copy else pl_module.policy.base_model
        sampler.attach(model, pl_module.tokenizer, pl_module.forward_context, is_live=not has_copy)


class WeightSync:
    """Keeps a sampler at the module's weights.

    Args:
        sampler: The sampler.
        policy: What it was told of the policy.
        pl_module: Has the weights.
        sampling: The sampling law in training, by which the canary is sampled.
        limits: How far engine and trainer may be apart on the canary.

    Attributes:
        metrics: Of the last update: the canary's mean gap (``rollout/canary_gap``, nats) and ``time/weight_update_s``;
            empty where the sampler uses the trainer's own weights.
    """

    def __init__(
        self,
        sampler: Sampler,
        policy: SampledPolicy,
        pl_module: SearchAgentModule,
        sampling: SamplingParams,
        limits: CanaryLimits = CanaryLimits(),
    ) -> None:
        self._sampler = sampler
        self._module = pl_module
        dtypes = (policy.dtype, sampler.engine_dtype)
        self._canary = Canary(limits, dtypes, pl_module.tokenizer, policy.max_tokens, sampling)
        self._version: int | None = None
        self.metrics: dict[str, float] = {}

    def update(self, *, is_forced: bool = False) -> None:
        """Send the weights unless the engines have them, and check; every rank must call.

        Args:
            is_forced: Whether to send them even so, because engines failed.

        Raises:
            WeightUpdateError: If an engine does not compute with them.
        """
        if self.metrics and self._version == self._module.iteration and not is_forced:
            return
        started = time.perf_counter()
        self._version = None
        self._sampler.make_room()
        engines = together(lambda: self._sampler.start() if rank() == 0 else [])[0]
        self._sampler.join(engines)
        deadline_s, key = self._sampler.update_deadline_s, "rollout.sampler.update_deadline_s"
        with ends_within(deadline_s, "the update of the engines' weights", key):
            together(self._send)
            gap = self._prove()
        self._version = self._module.iteration
        if gap is not None:
            self.metrics = {"rollout/canary_gap": gap, "time/weight_update_s": time.perf_counter() - started}

    def forget(self) -> None:
        """Send the weights at the next `update`, whatever their version."""
        self._version = None

    def _send(self) -> None:
        weights = self._module.policy.weights(as_saved=self._sampler.takes_saved_layout)
        try:
            self._sampler.update_weights(weights, self._module.iteration)
        finally:
            if self._module.policy.is_partitioned:
                for _ in weights:  # an error on this rank must not leave the others alone in the middle of the stream
                    pass

    def _prove(self) -> float | None:
        """The canary's gap, the largest of all engines'; None where the sampler has no engine of its own.

        Raises:
            WeightUpdateError: If an engine is not in order on both texts.
        """
        judged = None
        for requests in self._canary.requests:  # all of them, every time: an old cache must hold the second text too
            completions = together(partial(self._probe, requests))[0]
            if not completions:
                return None
            gaps = together(partial(self._gaps, requests, completions))[0]
            if judged is None and self._canary.is_in_order(gaps):
                judged = max(gaps.values())
        if judged is not None:
            self._canary.remember(judged)
            return judged
        together(partial(self._canary.check, gaps))
        raise AssertionError  # the check raises what is not in order

    def _probe(self, requests: Sequence[SampleRequest]) -> dict[str, list[Completion]]:
        return self._sampler.probe(requests) if rank() == 0 else {}

    def _gaps(
        self, requests: Sequence[SampleRequest], completions: Mapping[str, Sequence[Completion]]
    ) -> dict[str, float]:
        pairs = chain.from_iterable(zip(requests, answers, strict=True) for answers in completions.values())
        batch = collate([canary_trajectory(request, completion) for request, completion in pairs])
        scored = self._module.score(self._module.policy, batch.to(self._module.device)).cpu()
        # Rows of an engine are neighbours.
        behavior, ours, masks = (
            x.chunk(len(completions)) for x in (batch.behavior_log_probs, scored, batch.action_mask)
        )
        return {
            engine: mean_gap(theirs[mask].tolist(), own[mask].tolist())
            for engine, theirs, own, mask in zip(completions, behavior, ours, masks, strict=True)
        }
