"""slime (console, W&B, TensorBoard), AReaL (console, W&B) and Tinker's cookbook (``metrics.jsonl``).

Names as these print them; of slime `rollout/raw_reward`, because `rollout/rewards` are what its estimator made of it.
"""

from llds.monitor import signals as s
from llds.monitor.sources.vocabulary import Vocabulary

SLIME = Vocabulary(
    "slime",
    {
        "rollout/raw_reward": s.REWARD,
        "rollout/response_lengths": s.ACTION_TOKENS,
        "rollout/response_len/mean": s.ACTION_TOKENS,
        "rollout/truncated_ratio": s.ACTION_CUT,
        "rollout/truncated": s.ACTION_CUT,
        "train/loss": s.LOSS,
        "train/entropy_loss": s.ENTROPY,
        "train/grad_norm": s.GRAD_NORM,
        "train/pg_clipfrac": s.CLIP_SHARE,
        "train/kl_loss": s.KL_REF,
        "train/lr-pg_0": s.LEARNING_RATE,
        "train/train_rollout_logprob_abs_diff": s.GAP_MEAN,
    },
    steps=("rollout/step", "step", "_step", "Step"),
)
AREAL = Vocabulary(
    "AReaL",
    {
        "ppo_actor/task_reward/avg": s.REWARD,
        "grpo_actor/task_reward/avg": s.REWARD,
        "rollout/reward": s.REWARD,
        "ppo_actor/update/grad_norm": s.GRAD_NORM,
        "ppo_actor/update/lr": s.LEARNING_RATE,
        "ppo_actor/update/entropy/avg": s.ENTROPY,
        "ppo_actor/update/clip_ratio/avg": s.CLIP_SHARE,
        "ppo_actor/seq_len/avg": "rollout/total_tokens",
        "ppo_actor/no_eos_ratios/avg": s.ACTION_CUT,
    },
    steps=("step", "global_step", "_step", "Step"),
)
TINKER = Vocabulary(
    "Tinker",
    {
        "env/all/reward/total": s.REWARD,
        "optim/entropy": s.ENTROPY,
        "optim/lr": s.LEARNING_RATE,
        "optim/kl_sample_train_v1": s.BEHAVIOR_KL,
        "env/all/ac_tokens_per_turn": s.ACTION_TOKENS,
        "env/all/turns_per_episode": "rollout/turns",
        "env/all/by_group/frac_mixed": s.INFORMATIVE,
        "env/all/by_group/frac_all_good": s.ALL_CORRECT,
    },
    steps=("step", "progress/batch", "_step", "Step"),
)
