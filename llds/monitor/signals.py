"""The vocabulary: every signal of an iteration, what it means, its unit, and what is healthy.

One table for the detector, the documentation (docs/signals.md is tested against it) and reports. Names are the metric
keys that llds logs; the adapters in `llds.monitor.sources` translate other frameworks' names into them.
"""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down", "either", "none"]


@dataclass(frozen=True)
class Signal:
    """One signal.

    Attributes:
        name: Metric key.
        meaning: One sentence.
        unit: ``share`` is 0-1, ``nats`` are natural-log units per token.
        healthy: What a healthy run shows.
        worse: The direction that means trouble; ``none`` for signals that only describe.
    """

    name: str
    meaning: str
    unit: str
    healthy: str
    worse: Direction = "none"


REWARD = "reward/mean"
REWARD_STD = "reward/std"
REWARD_LOWEST = "reward/lowest"
REWARD_HIGHEST = "reward/highest"
TRAJECTORIES = "rollout/trajectories"
LOSS = "train/loss"
INFORMATIVE = "reward/informative_groups"
ALL_CORRECT = "reward/all_correct_groups"
ENTROPY = "policy/entropy"
RATIO_MAX = "policy/ratio_max"
RATIO_P99 = "policy/ratio_p99"
RATIO_MIN = "policy/ratio_min"
CLIP_SHARE = "policy/clip_share"
KL_REF = "policy/kl_ref"
GAP_MEAN = "policy/behavior_gap_mean"
GAP_MAX = "policy/behavior_gap_max"
BEHAVIOR_KL = "policy/behavior_kl"
LIKELIHOOD_CORRECT = "policy/log_likelihood_correct"
LIKELIHOOD_INCORRECT = "policy/log_likelihood_incorrect"
OBSERVATION_RATIO = "policy/observation_log_ratio"
CONTROL_PROBABILITY = "policy/control_probability"
PROBE_LIKELIHOOD = "policy/probe_log_likelihood"
DISPLACEMENT_CORRECT = "llds/displacement_correct"
DISPLACEMENT_INCORRECT = "llds/displacement_incorrect"
LLD_RATE = "llds/lld_rate"
LLD_MAGNITUDE = "llds/lld_magnitude"
PROBE_SHARE_NEGATIVE = "probe/share_negative"
PROBE_MEAN_CHANGE = "probe/mean_change"
GRAD_NORM = "train/grad_norm"
UPDATE_NORM = "train/update_norm"
LEARNING_RATE = "train/learning_rate"
NONFINITE = "train/nonfinite_step"
FAILED = "rollout/failed"
TOOL_FAILURES = "rollout/tool_failures"
ANSWERED = "rollout/answered"
VALID_ACTIONS = "rollout/valid_action_rate"
TOOL_CALLS = "rollout/tool_calls"
ACTION_TOKENS = "rollout/action_tokens"
ACTION_CUT = "rollout/action_cut"
FIRST_ACTION_MATCH = "rollout/first_action_match"
QUERIES = "retrieval/queries"
HIT_RATE = "retrieval/hit_rate"
EMPTY_SEARCHES = "retrieval/empty_searches"
WEIGHT_LAG = "rollout/weight_lag"
REPEATED_PROMPTS = "data/repeated_prompts"
BACK_TO = "collapse/back_to"

_KINDS = {"first": "of first actions", "later": "of later actions", "answer": "of the action that answers"}
"""Every action token belongs to one kind; an answer that is the only action is no first action."""


def _split(
    name: str, parts: dict[str, str], healthy: str, worse: Direction = "none", unit: str = "nats"
) -> tuple[Signal, ...]:
    """The parts of the signal above them."""
    return tuple(Signal(f"{name}_{part}", f"The same, {words}", unit, healthy, worse) for part, words in parts.items())


SIGNALS = (
    Signal(REWARD, "Mean reward of the iteration's trajectories", "reward", "rises, then holds", "down"),
    Signal(
        "reward/mean_trained",
        "The same of those trained on, where `rollout.oversampling` is set: not comparable with a run without it",
        "reward",
        "-",
    ),
    Signal(
        INFORMATIVE, "Groups with both right and wrong answers", "share", "> 0.2; near 0 nothing is learned", "down"
    ),
    Signal(ALL_CORRECT, "Groups in which every answer is right", "share", "rises slowly; near 1 the task is used up"),
    Signal(ENTROPY, "Mean entropy of the policy at action tokens", "nats", "falls slowly or holds", "up"),
    *_split(
        ENTROPY,
        {
            "correct": "in correct responses",
            "incorrect": "in incorrect responses",
            "first": "in first actions",
            "later": "in later actions",
            "answer": "in the action that answers",
        },
        "falls slowly or holds",
        "up",
    ),
    Signal(RATIO_MAX, "Largest likelihood ratio new / old of a token", "ratio", "calm; single spikes are common", "up"),
    Signal(RATIO_P99, "99th percentile of the likelihood ratio", "ratio", "below about 1.5", "up"),
    Signal(RATIO_MIN, "Smallest likelihood ratio new / old of a token", "ratio", "far above 0", "down"),
    Signal(CLIP_SHARE, "Action tokens whose ratio is clipped", "share", "calm", "up"),
    *_split(
        CLIP_SHARE,
        {"positive": "of those with a positive advantage", "negative": "of those with a negative advantage"},
        "calm",
        "up",
        unit="share",
    ),
    Signal(
        "policy/likelihood_displacement",
        "Mean change of log-likelihood of the tokens that the policy loss learns from, as the updates see it",
        "nats",
        "near 0",
    ),
    Signal("policy/kl", "KL penalty's estimate to the reference, during updates", "nats", "grows slowly", "up"),
    Signal(KL_REF, "k3 estimate of the old policy's KL to the reference", "nats", "grows slowly", "up"),
    Signal(
        GAP_MEAN,
        "Mean absolute gap, trainer to sampler, of sampled tokens' log-likelihood",
        "nats",
        "< 0.02, constant",
        "up",
    ),
    Signal(GAP_MAX, "Largest gap, trainer to sampler", "nats", "< 1e-4 in fp32", "up"),
    Signal(
        "policy/behavior_ess",
        "Effective sample size of trajectories as the trainer's own",
        "share",
        "near 1",
        "down",
    ),
    Signal(BEHAVIOR_KL, "KL of the sampler to the trainer", "nats", "< 1e-3, constant", "up"),
    Signal(LIKELIHOOD_CORRECT, "Mean log-likelihood of correct responses", "nats", "rises or holds", "down"),
    *_split(LIKELIHOOD_CORRECT, _KINDS, "rises or holds", "down"),
    Signal(LIKELIHOOD_INCORRECT, "The same of incorrect responses", "nats", "below that of correct ones"),
    *_split(LIKELIHOOD_INCORRECT, _KINDS, "below that of correct ones"),
    *(
        Signal(
            f"policy/nll_round_{rounds}",
            f"Mean negative log-likelihood of the action after {words}",
            "nats",
            "about equal over the rounds",
            "up",
        )
        for rounds, words in {
            "0": "no tool call",
            "1": "one tool call",
            "2": "two tool calls",
            "3_up": "three and more tool calls",
        }.items()
    ),
    Signal(
        OBSERVATION_RATIO,
        "Mean log-ratio policy / reference of observations, not trained on (a sample; `signals.observation_ratio`)",
        "nats",
        "near 0",
        "down",
    ),
    Signal(
        "policy/observation_log_likelihood",
        "Mean log-likelihood of observations under the policy, whatever the reference says (the same sample)",
        "nats",
        "holds",
        "down",
    ),
    Signal(
        CONTROL_PROBABILITY,
        "Probability of the call format's marks at action tokens that are none (a sample; `signals.control_tokens`)",
        "share",
        "holds or falls",
        "up",
    ),
    Signal(
        PROBE_LIKELIHOOD,
        "Mean log-likelihood, after the updates, of a fixed set of early correct trajectories",
        "nats",
        "holds",
        "down",
    ),
    Signal(
        DISPLACEMENT_CORRECT,
        "Change of correct responses' likelihood from before to after the iteration's updates (a sample)",
        "nats",
        "> 0",
        "down",
    ),
    *_split(DISPLACEMENT_CORRECT, _KINDS, "> 0", "down"),
    Signal(DISPLACEMENT_INCORRECT, "The same of incorrect responses", "nats", "< that of correct ones"),
    *_split(DISPLACEMENT_INCORRECT, _KINDS, "< that of correct ones"),
    Signal(LLD_RATE, "Actions of correct responses whose likelihood so fell (a sample)", "share", "below 0.5", "up"),
    *_split(LLD_RATE, _KINDS, "below 0.5", "up", unit="share"),
    Signal(LLD_MAGNITUDE, "Mean fall per token of those actions", "nats", "below about 0.01", "up"),
    Signal("llds/open_share", "Preserved tokens inside an open LLDS gate", "share", "below 0.5"),
    Signal("llds/fallen_share", "Preserved tokens whose likelihood fell", "share", "below 0.5"),
    Signal("llds/mean_fall", "Mean fall per token inside open gates", "nats", "small and calm"),
    Signal("llds/open_gates", "Number of open gates of a mini-batch", "count", "-"),
    Signal("llds/preserved", "Number of preserved trajectories of a mini-batch", "count", "-"),
    Signal(
        PROBE_SHARE_NEGATIVE,
        "Probed questions whose update lowers the likelihood of their correct responses (LLDProbe)",
        "share",
        "below 0.5; above: the paper's phase III",
        "up",
    ),
    Signal(PROBE_MEAN_CHANGE, "Mean change of those responses' likelihood", "nats", "> 0", "down"),
    Signal(GRAD_NORM, "Gradient norm before clipping, mean over the steps", "norm", "calm", "up"),
    Signal(UPDATE_NORM, "Norm of the change of the weights in the last step (Adam)", "norm", "as scheduled", "up"),
    Signal(LEARNING_RATE, "Learning rate of the last step", "1", "as scheduled"),
    Signal(NONFINITE, "Steps skipped because loss or gradient was not finite", "share", "0", "up"),
    Signal(LOSS, "Loss, all terms", "1", "says little in GRPO"),
    Signal("train/policy_loss", "Policy loss", "1", "says little in GRPO"),
    Signal("train/kl_loss", "KL penalty, before its coefficient", "nats", "grows slowly", "up"),
    Signal("train/llds_loss", "LLDS penalty, before its coefficient", "nats", "small and calm", "up"),
    Signal("train/entropy_loss", "Minus the entropy, where `EntropyBonus` is a term", "nats", "calm"),
    Signal("train/entropy_coefficient", "Coefficient of the entropy bonus, 0 while it does not act", "1", "calm"),
    Signal("train/positive_nll_loss", "`PositiveNLL`, before its coefficient", "nats", "falls", "up"),
    Signal("train/observation_nll_loss", "`ObservationNLL`, before its coefficient", "nats", "falls", "up"),
    Signal(FAILED, "Trajectories lost to infrastructure (retriever, sampler)", "share", "0", "up"),
    Signal(TOOL_FAILURES, "Tool calls that failed", "share", "0", "up"),
    Signal("rollout/tool_errors", "Tool calls that the tool refused because of their argument", "share", "near 0"),
    Signal(ANSWERED, "Trajectories that end with an answer", "share", "near 1", "down"),
    Signal(VALID_ACTIONS, "Actions that are a well-formed call or answer", "share", "near 1", "down"),
    Signal(
        TOOL_CALLS,
        "Tool calls per trajectory, searches and others, that got a result",
        "count",
        "holds or rises",
        "down",
    ),
    Signal("rollout/turns", "Turns per trajectory", "count", "holds"),
    Signal(ACTION_TOKENS, "Tokens per trajectory that the policy sampled", "tokens", "holds"),
    Signal("rollout/total_tokens", "Tokens per trajectory, observations included", "tokens", "holds"),
    Signal("rollout/repeated_ngrams", "4-grams of a trajectory's actions that it had before", "share", "low", "up"),
    Signal("rollout/distinct_queries", "Tool calls of a group that differ from each other", "share", "holds", "down"),
    Signal(ACTION_CUT, "Actions that hit the length limit", "share", "near 0", "up"),
    Signal("rollout/observation_cut", "Observations that were shortened", "share", "low"),
    Signal("rollout/dropped", "Trajectories left out of the loss because they or others failed", "share", "0", "up"),
    Signal("rollout/rounds", "Rounds of sampling, where `rollout.oversampling` is set", "count", "1 to 3", "up"),
    Signal("rollout/groups_drawn", "Groups sampled in all rounds", "count", "far below the bound", "up"),
    Signal("rollout/groups_with_signal", "Those whose rewards differ", "count", ">= `data.batch_size`", "down"),
    Signal("rollout/groups_all_correct", "Those whose rewards are all the same and above 0", "count", "-"),
    Signal("rollout/groups_all_wrong", "Those whose rewards are all the same and not above 0", "count", "falls"),
    Signal("rollout/further_tokens", "Sampled tokens that rounds after the first sampled", "share", "low", "up"),
    Signal(
        "rollout/abandoned", "Trajectories given up as stragglers, where `rollout.stragglers` is set", "share", "low"
    ),
    Signal(
        "rollout/abandoned_tokens",
        "Length those had got to; far above `rollout/total_tokens` is a bias",
        "tokens",
        "near the others'",
    ),
    Signal(
        FIRST_ACTION_MATCH,
        "Wrong trajectories whose first search finds a right one's documents",
        "share",
        "holds",
        "down",
    ),
    Signal(WEIGHT_LAG, "Updates by which the sampler's weights are behind the trainer's", "iterations", "0", "up"),
    Signal(REPEATED_PROMPTS, "Prompts that the same epoch has already trained on", "share", "0", "up"),
    Signal(QUERIES, "Queries of the iteration", "count", "holds"),
    Signal(
        "retrieval/asked_before",
        "Queries that the same process had asked in this iteration: with more processes, fewer",
        "share",
        "-",
    ),
    Signal("retrieval/failed_calls", "Calls of the retriever that failed, after its own retries", "count", "0", "up"),
    Signal(EMPTY_SEARCHES, "Queries that found nothing", "share", "near 0", "up"),
    Signal(HIT_RATE, "Trajectories whose passages hold a gold answer", "share", "rises or holds", "down"),
    Signal(REWARD_STD, "Standard deviation of the rewards, where another framework logs it", "reward", "> 0", "down"),
    Signal(REWARD_LOWEST, "Least reward of a trajectory, where another framework logs it", "reward", "-"),
    Signal(REWARD_HIGHEST, "Largest reward of a trajectory, where another framework logs it", "reward", "-"),
    Signal(TRAJECTORIES, "Trajectories of the iteration, where another framework logs it", "count", "holds"),
    Signal(
        BACK_TO, "Iteration whose weights came back after this one, where the collapse ladder went back", "count", "-"
    ),
)

BY_NAME = {signal.name: signal for signal in SIGNALS}


def as_markdown() -> str:
    """The vocabulary as the page docs/signals.md."""
    arrows = {"up": "rises", "down": "falls", "either": "jumps", "none": ""}
    lines = [
        "# Signals",
        "",
        "llds logs these in every iteration. `llds diagnose` translates other frameworks' logs into these names.",
        "Which to look at first: [the report](report.md#which-curves-to-look-at-first).",
        "",
        "- **Share**: from 0 to 1. **Nats**: natural-log units per token.",
        "- **Correct**: what `rollout.correct` calls so.",
        "- **A sample**: measured after the updates on a few of the trajectories (`signals.rescored_share`).",
        "",
        "Most come from `llds/metrics/`. Written by `python tools/write_signals.py`.",
        "",
        "| signal | meaning | unit | healthy | trouble when it |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [f"| `{one.name}` | {one.meaning} | {one.unit} | {one.healthy} | {arrows[one.worse]} |" for one in SIGNALS]
    besides = [
        "",
        "Logged besides, and judged by nothing: `collapse/level` (0 none, 1 note, 2 warning, 3 alarm),",
        "`collapse/phase` (0 healthy, 1 to 3 as in the paper, 4 collapsed), `collapse/confidence` (the agreement),",
        "`collapse/actions` (rungs that acted), `rollout/canary_gap` (nats between sampler and trainer on fixed",
        "tokens, after the weights arrived), `time/*` (seconds of each part).",
        "",
    ]
    return "\n".join([*lines, *besides])
