"""TRL's GRPOTrainer: console, notebook, ``trainer_state.json``, TensorBoard and W&B.

Names as in TRL f2cd577 (`trainer/grpo_trainer.py`), those of older versions, and what loops of people's own call a mean
reward.
"""

from collections.abc import Mapping

from llds.monitor import signals as s
from llds.monitor.sources.vocabulary import BROUGHT, Row, Vocabulary


def _derive(numbers: Mapping[str, float]) -> Row:
    flat = numbers.get("frac_reward_zero_std")
    return {} if flat is None else {s.INFORMATIVE: 1 - flat}


VOCABULARY = Vocabulary(
    "TRL",
    {
        **BROUGHT,
        "reward": s.REWARD,
        "mean_reward": s.REWARD,
        "reward_mean": s.REWARD,
        "reward/mean": s.REWARD,
        "avg_reward": s.REWARD,
        "reward_std": s.REWARD_STD,
        "loss": s.LOSS,
        "entropy": s.ENTROPY,
        "grad_norm": s.GRAD_NORM,
        "learning_rate": s.LEARNING_RATE,
        "kl": s.KL_REF,
        "clip_ratio/region_mean": s.CLIP_SHARE,
        "clip_ratio": s.CLIP_SHARE,
        "completions/mean_length": s.ACTION_TOKENS,
        "completion_length": s.ACTION_TOKENS,
        "avg_gen_tokens": s.ACTION_TOKENS,
        "rollout_count": s.TRAJECTORIES,
        "completions/clipped_ratio": s.ACTION_CUT,
        "tools/call_frequency": s.TOOL_CALLS,
        "tools/failure_frequency": s.TOOL_FAILURES,
        "sampling/sampling_logp_difference/mean": s.GAP_MEAN,
        "sampling/sampling_logp_difference/max": s.GAP_MAX,
    },
    steps=("step", "train/global_step", "_step", "Step"),
    derive=_derive,
    derived_from=("frac_reward_zero_std",),
    prefixes=("train/",),
)
