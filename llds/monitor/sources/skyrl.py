"""SkyRL: W&B, TensorBoard, and jsonl of its metrics.

Names as in SkyRL a956457 (`trainer.py`, `workers/`); ``policy/tis/...`` where it corrects for the sampler.
"""

from llds.monitor import signals as s
from llds.monitor.sources.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    "SkyRL",
    {
        "reward/avg_raw_reward": s.REWARD,
        "loss/avg_final_rewards": s.REWARD,
        "policy/policy_entropy": s.ENTROPY,
        "policy/raw_grad_norm": s.GRAD_NORM,
        "policy/policy_lr": s.LEARNING_RATE,
        "policy/ppo_clip_ratio": s.CLIP_SHARE,
        "policy/policy_kl": s.KL_REF,
        "policy/tis/log_ratio_abs_mean": s.GAP_MEAN,
        "async/staleness_mean": s.WEIGHT_LAG,
        "generate/avg_num_tokens": s.ACTION_TOKENS,
    },
    steps=("trainer/global_step", "step", "_step", "Step"),
)
