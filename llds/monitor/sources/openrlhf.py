"""OpenRLHF: W&B and TensorBoard. Names as in its trainers for PPO (`trainer/ppo_utils/experience_maker.py`)."""

from llds.monitor import signals as s
from llds.monitor.sources.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    "OpenRLHF",
    {
        "reward": s.REWARD,
        "score": s.REWARD,
        "policy_loss": s.LOSS,
        "actor_lr": s.LEARNING_RATE,
        "entropy_loss": s.ENTROPY,
        "kl": s.KL_REF,
        "ppo_clip_ratio": s.CLIP_SHARE,
        "vllm_kl": s.BEHAVIOR_KL,
        "actor_grad_norm": s.GRAD_NORM,
        "response_length": s.ACTION_TOKENS,
        "response_clip_ratio": s.ACTION_CUT,
        "total_length": "rollout/total_tokens",
        "group_reward_std": s.REWARD_STD,
    },
    steps=("train/global_step", "global_step", "step", "_step", "Step"),
    prefixes=("train/",),
)
