"""prime-rl: ``metrics.jsonl`` of its file monitor, its console, and W&B.

Names as in prime-rl 559b447 (`orchestrator/metrics.py`, `trainer/rl/train.py`); the older ``reward/all/mean`` too. The
orchestrator names its agents in the middle of a path: ``train/agg/all/AGENT/reward/mean``.
"""

import re

from llds.monitor import signals as s
from llds.monitor.sources.vocabulary import Record, Vocabulary

_BY_AGENT = re.compile(r"train/agg/all/(?:[^/]+/)?(reward/mean|solved_\w+|num_turns/mean|is_truncated/mean)")
_PLAIN = "train/agg/all/"

VOCABULARY = Vocabulary(
    "prime-rl",
    {
        f"{_PLAIN}reward/mean": s.REWARD,
        "reward/all/mean": s.REWARD,
        "entropy/all/mean": s.ENTROPY,
        "mismatch_kl/all/mean": s.BEHAVIOR_KL,
        "optim/grad_norm": s.GRAD_NORM,
        "optim/lr": s.LEARNING_RATE,
        "off_policy/mean": s.WEIGHT_LAG,
        f"{_PLAIN}solved_some": s.INFORMATIVE,
        f"{_PLAIN}solved_all": s.ALL_CORRECT,
        f"{_PLAIN}has_error/mean": s.FAILED,
        f"{_PLAIN}num_turns/mean": "rollout/turns",
        f"{_PLAIN}num_output_tokens/mean": s.ACTION_TOKENS,
        f"{_PLAIN}is_truncated/mean": s.ACTION_CUT,
        "is_truncated/all/mean": s.ACTION_CUT,
        "num_turns/all/mean": "rollout/turns",
        # The console's
        "Reward": s.REWARD,
        "Entropy": s.ENTROPY,
        "Mismatch KL": s.BEHAVIOR_KL,
        "Grad. Norm": s.GRAD_NORM,
        "LR": s.LEARNING_RATE,
        "Max. Off-Policy Level": s.WEIGHT_LAG,
        "Seq. Length": "rollout/total_tokens",
    },
    steps=("step", "_step", "Step"),
)


def without_agents(record: Record) -> Record:
    """The record with the (first) agent's name taken out of its paths."""
    plain = dict(record)
    for name, value in record.items():
        if (match := _BY_AGENT.fullmatch(name)) and (short := _PLAIN + match[1]) not in plain:
            plain[short] = value
            del plain[name]
    return plain
