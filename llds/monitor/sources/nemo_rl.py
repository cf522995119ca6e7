"""NeMo-RL: console, TensorBoard and W&B.

Names as its recipes check and plot them (0.8: `train/gen_kl_error`, `train/approx_entropy`, ...).
"""

from collections.abc import Mapping

from llds.monitor import signals as s
from llds.monitor.sources.vocabulary import Row, Vocabulary


def _derive(numbers: Mapping[str, float]) -> Row:
    # mean of exp(|gap|), which is 1 + the mean gap while that is small
    error = numbers.get("train/token_mult_prob_error")
    return {} if error is None else {s.GAP_MEAN: max(error - 1, 0.0)}


VOCABULARY = Vocabulary(
    "NeMo-RL",
    {
        "train/reward": s.REWARD,
        "train/approx_entropy": s.ENTROPY,
        "train/grad_norm": s.GRAD_NORM,
        "train/lr": s.LEARNING_RATE,
        "train/probs_ratio_max": s.RATIO_MAX,
        "train/probs_ratio_min": s.RATIO_MIN,
        "train/gen_kl_error": s.BEHAVIOR_KL,
        "train/avg_trajectory_age": s.WEIGHT_LAG,
        "train/mean_gen_tokens_per_sample": s.ACTION_TOKENS,
        "train/turns_per_sample/mean": "rollout/turns",
        # The console's
        "Avg Reward": s.REWARD,
        "Avg Total Reward": s.REWARD,
        "Loss": s.LOSS,
        "Generation KL Error": s.BEHAVIOR_KL,
        "Mean Generation Length": s.ACTION_TOKENS,
    },
    steps=("train/step", "step", "_step", "Step"),
    derive=_derive,
    derived_from=("train/token_mult_prob_error",),
)
