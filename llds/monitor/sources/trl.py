"""TRL's GRPOTrainer and its kin: console, notebook, ``trainer_state.json``, TensorBoard and W&B.

Names as in TRL f2cd577 (`trainer/grpo_trainer.py`), those of older versions and of its PPO, of ms-swift, open-instruct
and LLaMA-Factory, and what loops of people's own call a mean reward.
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
        "objective/scores": s.REWARD,  # PPO and online DPO, open-instruct
        "entropy": s.ENTROPY,
        "entropy/mean": s.ENTROPY,  # ms-swift
        "policy/entropy_avg": s.ENTROPY,
        "grad_norm": s.GRAD_NORM,
        "grad norm": s.GRAD_NORM,  # ms-swift with Megatron
        "learning_rate": s.LEARNING_RATE,
        "learning rate": s.LEARNING_RATE,
        "lr": s.LEARNING_RATE,
        "loss/policy_avg": s.LOSS,
        "objective/kl": s.KL_REF,
        "policy/clipfrac_avg": s.CLIP_SHARE,
        "val/sequence_lengths": s.ACTION_TOKENS,
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
    steps=("step", "train/global_step", "global_step/max_steps", "current_steps", "training_step", "_step", "Step"),
    derive=_derive,
    derived_from=("frac_reward_zero_std",),
    prefixes=("train/",),
)
