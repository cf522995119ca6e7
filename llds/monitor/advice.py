"""What to do about a cause; never what is on already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llds.monitor.diagnosis import Cause


@dataclass(frozen=True)
class Settings:
    """What is known of a run's settings; None where nothing is.

    Attributes:
        llds: Whether LLDS is on.
        importance_sampling: Whether the gap between sampler and trainer is corrected by importance sampling.
        gradient_clipping: Whether the gradient's norm is clipped.
    """

    llds: bool | None = None
    importance_sampling: bool | None = None
    gradient_clipping: bool | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Settings":
        """From a configuration of llds, as nested dictionaries; empty where there is none."""
        model = config.get("model") or {}
        model = model.get("init_args", model)  # beside class_path, as a run's config.yaml has it
        if not model:
            return cls()
        penalty, optimization = model.get("llds_penalty"), model.get("optimization") or {}
        arguments = penalty.get("init_args", penalty) if isinstance(penalty, Mapping) else {}
        return cls(
            llds=penalty is not None and arguments.get("coefficient", 0.1) > 0,
            importance_sampling=model.get("importance_correction") is not None,
            gradient_clipping=bool(optimization.get("max_grad_norm", 1.0)),
        )


def advise(cause: Cause, settings: Settings) -> str:
    """What to do about a cause."""
    if cause == "lld_spiral":
        return _spiral(settings)
    if cause == "sampler_mismatch" and settings.importance_sampling:
        return _MISMATCH
    if cause == "optimizer_blow_up":
        clip = "" if settings.gradient_clipping else " Clip the gradient."
        return f"{_ADVICE[cause]}{clip}"
    return _ADVICE[cause]


def _spiral(settings: Settings) -> str:
    if settings.llds:
        llds = "raise the lambda of LLDS, which is on"
    elif settings.llds is None:
        llds = "add LLDS, or raise its lambda where it is on (`model.llds_penalty` in llds)"
    else:
        llds = "add LLDS (`model.llds_penalty` in llds)"
    return (
        f"Lower the learning rate (the strongest cure we measured), {llds}, and go on from the last checkpoint before "
        "the decay."
    )


_MISMATCH = (
    "Sample and train with the same precision, temperature, top-p and chat template; compare both on one prompt."
)
_ADVICE: dict[Cause, str] = {
    "not_finite": (
        "Stop: from the first such step on the weights may be broken. Go on from a checkpoint before it; look at the "
        "batch of that step, at the precision (fp16 overflows where bf16 does not) and at the learning rate."
    ),
    "length_explosion": (
        "Read some of the long responses: repetition, or thinking that does not end? Give cut responses no reward or a "
        "penalty, check the stop strings, normalize the loss by tokens, and go on from the checkpoint before."
    ),
    "sampler_mismatch": f"{_MISMATCH} Correct with truncated importance sampling if the gap must stay.",
    "stale_weights": (
        "Check the weight synchronisation: the sampler answers with old weights. Log the version it uses, reset its "
        "prefix cache after every update."
    ),
    "retriever_outage": (
        "Look at the retriever: is it up, is its index the one of the corpus, do its logs show errors? Rewards of this "
        "stretch say nothing about the policy; go on from the checkpoint before it."
    ),
    "broken_reward": (
        "Score a few logged trajectories by hand: does the reward tell right from wrong? Check gold answers, answer "
        "extraction, and that each reward reaches its own trajectory."
    ),
    "format_break": (
        "Read logged trajectories: has a template, tag or stop string changed, or are actions cut at the token limit?"
    ),
    "optimizer_blow_up": (
        "Go back to the last checkpoint before the jump; lower the learning rate or lengthen its warm-up, and take "
        "fewer updates per rollout batch."
    ),
    "data_repeating": "Check the data loader's position after a resume and its shuffling: prompts come back too early.",
    "unknown": "Read trajectories of the iterations around the onset, and compare with the last healthy checkpoint.",
}
