"""verl and what descends from it (Search-R1, the authors' LLDS code): console, file logger, TensorBoard, W&B.

Names as in verl 1dda039 (`trainer/ppo/metric_utils.py`, `workers/`, `rollout_corr_helper.py`) and in Search-R1 a14dc3a
(``env/*``). ``actor/pos_avg_old_log_prob`` of the authors' code is not read: it divides by the tokens of all responses,
and so it moves with the share of correct ones.
"""

from collections.abc import Mapping

from llds.monitor import signals as s
from llds.monitor.sources.vocabulary import Row, Vocabulary

_BETTER = ("actor/better_responses", "actor/better_log_likelihood", "actor/better_displacement")
"""What `llds.integrations.verl` logs: responses that are better than those beside them, and sums over them."""


def _derive(numbers: Mapping[str, float]) -> Row:
    # mean(old - new) log-probability: the displacement with its sign turned
    row = {"policy/likelihood_displacement": -numbers["actor/ppo_kl"]} if "actor/ppo_kl" in numbers else {}
    count, *sums = (numbers.get(name, 0.0) for name in _BETTER)
    if count > 0:
        row |= {s.LIKELIHOOD_CORRECT: sums[0] / count, s.DISPLACEMENT_CORRECT: sums[1] / count}
    return row


VOCABULARY = Vocabulary(
    "verl",
    {
        "critic/score/mean": s.REWARD,
        "critic/rewards/mean": s.REWARD,
        "episode/reward/mean": s.REWARD,  # verl-agent
        "critic/score/min": s.REWARD_LOWEST,
        "critic/score/max": s.REWARD_HIGHEST,
        "actor/entropy": s.ENTROPY,
        "actor/entropy_loss": s.ENTROPY,  # the mean entropy, before verl 0.4
        "actor/grad_norm": s.GRAD_NORM,
        "actor/lr": s.LEARNING_RATE,
        "actor/pg_clipfrac": s.CLIP_SHARE,
        "actor/kl_loss": s.KL_REF,
        "actor/reward_kl_penalty": s.KL_REF,
        "critic/kl": s.KL_REF,
        "actor/pg_loss": s.LOSS,
        "rollout_corr/kl": s.BEHAVIOR_KL,
        # Of probabilities: at most as far apart as their logarithms
        "training/rollout_probs_diff_mean": s.GAP_MEAN,
        "training/rollout_probs_diff_max": s.GAP_MAX,
        "training/off_policy/trajectory_staleness/mean": s.WEIGHT_LAG,
        "response_length/mean": s.ACTION_TOKENS,
        "response_length/clip_ratio": s.ACTION_CUT,
        "response/aborted_ratio": s.FAILED,
        "num_turns/mean": "rollout/turns",
        "env/number_of_actions/mean": "rollout/turns",
        "env/number_of_valid_search": s.TOOL_CALLS,
        "env/ratio_of_valid_action": s.VALID_ACTIONS,
        "env/finish_ratio": s.ANSWERED,
        "episode/length/mean": "rollout/turns",
        "episode/valid_action_ratio": s.VALID_ACTIONS,
        "episode/tool_call_count/mean": s.TOOL_CALLS,
    },
    steps=("training/global_step", "step", "_step", "Step", "global_step"),
    derive=_derive,
    derived_from=("actor/ppo_kl", *_BETTER),
)
