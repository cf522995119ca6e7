"""Requests and completions in vLLM's terms, the same for an engine in this process and for a server."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from llds.errors import SamplerError
from llds.samplers.base import SampleRequest
from llds.types import Completion, StopReason

_SEEDS = 2**63  # vLLM takes signed 64-bit seeds


def sampling_params(request: SampleRequest, end_ids: Sequence[int]) -> dict[str, Any]:
    """Arguments of vLLM's `SamplingParams`.

    Args:
        request: The request.
        end_ids: Ids of the tokens that end a turn; the engine's own ideas of them are switched off.
    """
    law = request.sampling
    return {
        "temperature": law.temperature,
        "top_p": law.top_p,
        "top_k": law.top_k,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop_strings),
        "stop_token_ids": list(dict.fromkeys((*end_ids, *request.stop_ids))),
        "ignore_eos": True,
        "skip_special_tokens": False,  # tags that are special tokens must be seen to stop at them
        "spaces_between_special_tokens": False,
        "logprobs": 0,  # of the sampled token alone
        "seed": int(np.random.SeedSequence(request.seed).generate_state(1, np.uint64)[0]) % _SEEDS,
    }


def completion(
    token_ids: Iterable[int],
    log_probs: Iterable[float],
    finish_reason: str | None,
    stop_reason: int | str | None,
    weight_versions: Iterable[Mapping[str, Any]],
    version: int,
) -> Completion:
    """What the engine returned, checked.

    Raises:
        SamplerError: If the engine gave up, or sampled with other weights than those of `version`.
    """
    versions = {str(span["version"]) for span in weight_versions}
    if versions != {str(version)}:
        raise SamplerError(f"expected an action by weights of version {version}, got one by {sorted(versions)}")
    if finish_reason not in ("stop", "length"):
        raise SamplerError(f"the engine ended an action with {finish_reason!r}")
    reason: StopReason = "length" if finish_reason == "length" else "stop" if isinstance(stop_reason, str) else "eos"
    ids, values = list(token_ids), list(log_probs)
    if len(ids) != len(values) or not ids:
        raise SamplerError(f"expected a log-probability for each sampled token, got {len(values)} for {len(ids)}")
    return Completion(ids, values, reason)
