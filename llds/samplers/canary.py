"""The canary: a fixed prompt whose sampled continuation the trainer scores too, after every weight update.

Tokens from all over the vocabulary, in an order that no text has: every weight takes part in what comes after them.
The engine keeps the prompt's prefix in its cache from one update to the next, so a cache that was not reset shows as
well. Bit errors that are too small to show here are the fingerprints' business (`llds.samplers.vllm.weight_update`).
"""

from collections.abc import Sequence

from llds.errors import WeightUpdateError
from llds.samplers.base import SampleRequest
from llds.types import Action, Completion, Prompt, SamplingParams, Trajectory, Turn

CANARY = -1
"""Stands for the number of a trajectory in a canary's request: its cache outlives updates on purpose."""

_TOLERANCES = {"float64": 1e-3, "float32": 1e-3, "bfloat16": 0.3}

_PROMPT_TOKENS = 96  # three blocks of the prefix cache
_ACTION_TOKENS = 16


def canary_request(vocabulary: int, room: int, sampling: SamplingParams) -> SampleRequest:
    """The request, the same in every iteration.

    Args:
        vocabulary: Number of tokens of the tokenizer.
        room: Most tokens of prompt and action together.
        sampling: The sampling law in training.
    """
    action_tokens = min(_ACTION_TOKENS, room // 2)
    length = min(_PROMPT_TOKENS, room - action_tokens)
    stride = max(1, vocabulary // length)
    while stride > 1 and vocabulary % stride == 0:  # a stride that divides it would come round to the same few tokens
        stride -= 1
    ids = [(7 + stride * position * 5) % vocabulary for position in range(length)]
    return SampleRequest(CANARY, ids, action_tokens, (), sampling, seed=(0,))


def tolerance(*dtypes: str) -> float:
    """Largest difference of a token's log-probability between engine and trainer, in nats: the coarser dtype decides.

    Measured on right weights: below 1e-5 in float32 and 0.1 in bfloat16; on wrong ones: above 1.
    """
    return max(_TOLERANCES[dtype] for dtype in dtypes)


def canary_trajectory(request: SampleRequest, completion: Completion) -> Trajectory:
    """The engine's answer as a trajectory that the trainer can score."""
    turn = Turn(completion.token_ids, completion.log_probs, completion.stop_reason, Action("invalid"))
    prompt = Prompt("canary", "", ("",), prompt_ids=tuple(request.token_ids))
    return Trajectory(prompt, "canary", 0, request.sampling, turns=[turn])


def check_canary(engine: str, behavior: Sequence[float], scored: Sequence[float], limit: float) -> float:
    """Raise unless engine and trainer say the same of the canary's tokens.

    Args:
        engine: Which engine, for the message.
        behavior: Log-probabilities by the engine.
        scored: Log-probabilities by the trainer.
        limit: Largest difference that is in order.

    Returns:
        The largest difference.

    Raises:
        WeightUpdateError: If it is above the limit, or not a number.
    """
    gaps = [abs(theirs - ours) for theirs, ours in zip(behavior, scored, strict=True)]
    gap = max(gaps, default=float("nan"))
    if not gap <= limit:
        raise WeightUpdateError(
            f"Expected {engine} to agree with the trainer on the canary's log-probabilities within {limit:g} nats, "
            f"got a difference of {gap:.3g}: it computes with other weights, a stale prefix cache or another sampling "
            "law. Its actions would not be the policy's. Resume with `--ckpt_path last`; where it is so from the first "
            "update on, this sampler cannot take the model's weights: llds.samplers.TransformersSampler can."
        )
    return gap
