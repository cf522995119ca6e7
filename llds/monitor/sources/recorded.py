"""Compact recordings: one JSON object per iteration with short names, between a ``config`` and an ``end`` line."""

from collections.abc import Mapping

from llds.monitor import signals as s
from llds.monitor.sources.vocabulary import Row, Vocabulary


def _derive(numbers: Mapping[str, float]) -> Row:
    """Changes are summed over a response; our signal is the mean per token."""
    length = numbers.get("ntok", 0.0)
    pairs = {"dlogp_correct_seq": s.DISPLACEMENT_CORRECT, "dlogp_incorrect_seq": s.DISPLACEMENT_INCORRECT}
    return {ours: numbers[theirs] / length for theirs, ours in pairs.items() if theirs in numbers and length > 0}


VOCABULARY = Vocabulary(
    "recording",
    {
        "reward": s.REWARD,
        "mixed_groups": s.INFORMATIVE,
        "all_correct_groups": s.ALL_CORRECT,
        "fmt": s.ANSWERED,
        "trunc": s.ACTION_CUT,
        "nsearch": s.TOOL_CALLS,
        "ntok": s.ACTION_TOKENS,
        "logp_correct_tok": s.LIKELIHOOD_CORRECT,
        "logp_incorrect_tok": s.LIKELIHOOD_INCORRECT,
        "logp_correct_first_tok": "policy/log_likelihood_correct_first",
        "lld_rate_correct": s.LLD_RATE,
        "lld_mag_correct": s.LLD_MAGNITUDE,
        "probe_logp_tok": s.PROBE_LIKELIHOOD,
        "entropy": s.ENTROPY,
        "first_match_incorrect": s.FIRST_ACTION_MATCH,
        "max_ratio": s.RATIO_MAX,
        "p99_ratio": s.RATIO_P99,
        "clip_frac": s.CLIP_SHARE,
        "grad_norm": s.GRAD_NORM,
        "kl_ref": s.KL_REF,
        "mismatch_abs": s.GAP_MEAN,
        "mismatch_max": s.GAP_MAX,
        "lr": s.LEARNING_RATE,
    },
    derive=_derive,
    derived_from=("dlogp_correct_seq", "dlogp_incorrect_seq"),
)
