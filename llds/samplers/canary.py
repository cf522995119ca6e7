"""The canary: fixed texts whose sampled continuations the trainer scores too, after every weight update.

Judged by the mean difference over about 256 tokens after natural text. A largest difference would grow with the count
of tokens: two right engines in bfloat16 differ by 0.2 on some token. The engine keeps the texts in its prefix cache
from one update to the next, so a cache that was not reset shows as well: both texts are asked each time. Bit errors
that are too small to show here are the fingerprints' business (`llds.samplers.vllm.weight_update`).
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from transformers import PreTrainedTokenizerBase

from llds.errors import ConfigurationError, WeightUpdateError
from llds.samplers.base import SampleRequest
from llds.types import Action, Completion, Prompt, SamplingParams, Trajectory, Turn

CANARY = -1
"""Stands for the number of a trajectory in a canary's request: its cache outlives updates on purpose."""

TEXTS = (
    "The river rises in the hills north of the old market town and runs for some 240 kilometres to the sea. In 1873 a "
    "stone bridge was built where the ferry had crossed, and the first train came over it two years later. Question: "
    "who designed the bridge, and in which city was that engineer born? To answer it one has to find the name of the "
    "engineer first, and then look for the place of birth. Most of the workers came from villages nearby; they were "
    "paid by the day, and a wet spring could cost a family half of its income. Today about 31,000 people live in the "
    "town. Its library keeps the plans, its school teaches three languages, and every June there is a fair with music, "
    "bread and cheese on the square in front of the church.",
    "Light from the sun needs about eight minutes to reach us, so we always see it as it was a short while ago. A "
    "teacher may put it this way: if you could phone someone on the sun, you would wait a quarter of an hour for the "
    "first reply. The speed of light, 299,792 kilometres per second, was measured more and more exactly between 1676 "
    "and 1983. Who was the first to estimate it, and which moons did he watch? He saw that the eclipses came too early "
    "when the planet was near and too late when it was far away. His numbers were wrong by a quarter, but the idea was "
    "right, and it made many people change their minds about how space, time and sight belong together.",
)
"""Asked at every update; an engine is refused where neither is in order."""

_PIECES = 4  # requests of a text, side by side: 256 tokens in the time of 64
_PROMPT_TOKENS = 96  # three blocks of the prefix cache
_ACTION_TOKENS = 64
_EARLIER = 20  # gaps that are remembered
_ENOUGH = 5  # of them that say what is usual


@dataclass(frozen=True)
class CanaryLimits:
    """How far an engine's log-probabilities may be from the trainer's after an update: means over 256 tokens, nats.

    Right weights: 1e-6 to 1e-5 where both compute in float32, 0.005 to 0.03 in bfloat16. Other weights: above 0.5.
    """

    float32: float = 1e-3
    """Largest mean difference where trainer and engine compute in float32 or float64."""
    bfloat16: float = 0.1
    """Largest mean difference where one of them computes in bfloat16."""
    rise: float = 3.0
    """Largest multiple of the run's own earlier mean differences (their median); never below a tenth of the above."""

    def __post_init__(self) -> None:
        if not (0 < self.float32 < math.inf and 0 < self.bfloat16 < math.inf and self.rise > 1):
            raise ConfigurationError(
                f"Expected `rollout.canary` to have float32 and bfloat16 above 0 and rise above 1, got {self}."
            )

    def tolerance(self, *dtypes: str) -> float:
        """Largest mean difference; the coarser dtype decides."""
        return self.bfloat16 if "bfloat16" in dtypes else self.float32


class Canary:
    """What is asked of the engines after an update, and whether their answers are in order.

    Args:
        limits: What is in order.
        dtypes: In which trainer and engines compute.
        tokenizer: Of the policy.
        room: Most tokens of prompt and action together.
        sampling: The sampling law in training.

    Attributes:
        requests: For each text, the same in every iteration.
    """

    def __init__(
        self,
        limits: CanaryLimits,
        dtypes: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        room: int,
        sampling: SamplingParams,
    ) -> None:
        self.requests = [
            canary_requests(tokenizer.encode(text, add_special_tokens=False) or [0], room, sampling) for text in TEXTS
        ]
        self._limits = limits
        self._tolerance = limits.tolerance(*dtypes)
        self._key = "bfloat16" if "bfloat16" in dtypes else "float32"
        self._earlier: deque[float] = deque(maxlen=_EARLIER)

    @property
    def limit(self) -> float:
        """Largest mean difference that is in order now, in nats."""
        if len(self._earlier) < _ENOUGH:
            return self._tolerance
        usual = self._limits.rise * median(self._earlier)
        return min(self._tolerance, max(usual, self._tolerance / 10))

    def is_in_order(self, gaps: Mapping[str, float]) -> bool:
        """Whether every engine is; not one whose gap is not a number."""
        return all(gap <= self.limit for gap in gaps.values())

    def remember(self, gap: float) -> None:
        """Take note of the gap of an update that was in order."""
        self._earlier.append(gap)

    def check(self, gaps: Mapping[str, float]) -> None:
        """Raise unless the engines are in order on the last text.

        Args:
            gaps: Mean difference of each engine, by its name for messages.

        Raises:
            WeightUpdateError: If one is not.
        """
        for engine, gap in gaps.items():
            if not gap <= self.limit:
                usual = f", and {median(self._earlier):.2g} is usual in this run" if self._earlier else ""
                raise WeightUpdateError(
                    f"Expected {engine} to agree with the trainer on the canary's log-probabilities within "
                    f"{self.limit:.2g} nats on average, got {gap:.3g} on the second of two texts{usual}: it computes "
                    "with other weights, a stale prefix cache or another sampling law. Its actions would not be the "
                    "policy's. Resume with `--ckpt_path last`; if it comes back and the engine is right, raise "
                    f"`rollout.canary.{self._key}` or `rise`."
                )


def canary_requests(text: Sequence[int], room: int, sampling: SamplingParams) -> list[SampleRequest]:
    """The requests of a text: each goes on from another place in it.

    Args:
        text: Its tokens, at least one.
        room: Most tokens of prompt and action together.
        sampling: The sampling law in training.
    """
    action_tokens = min(_ACTION_TOKENS, room // 2)
    length = min(_PROMPT_TOKENS, room - action_tokens)
    starts = [len(text) * piece // _PIECES for piece in range(_PIECES)]
    return [
        SampleRequest(
            CANARY,
            [text[(start + place) % len(text)] for place in range(length)],
            action_tokens,
            (),
            sampling,
            seed=(number,),
        )
        for number, start in enumerate(starts)
    ]


def canary_trajectory(request: SampleRequest, completion: Completion) -> Trajectory:
    """The engine's answer as a trajectory that the trainer can score."""
    turn = Turn(completion.token_ids, completion.log_probs, completion.stop_reason, Action("invalid"))
    prompt = Prompt("canary", "", ("",), prompt_ids=tuple(request.token_ids))
    return Trajectory(prompt, "canary", 0, request.sampling, turns=[turn])


def mean_gap(behavior: Sequence[float], scored: Sequence[float]) -> float:
    """Mean absolute difference of log-probabilities, in nats; not a number where there is none.

    Args:
        behavior: By the engine.
        scored: By the trainer.
    """
    gaps = [abs(theirs - ours) for theirs, ours in zip(behavior, scored, strict=True)]
    return math.fsum(gaps) / len(gaps) if gaps else math.nan
