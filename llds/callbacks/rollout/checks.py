"""Checks of the rollout's settings against those of data and model, before anything is loaded or sampled.

A value that is wrong by itself is refused where it is given; here is what only two of them together can get wrong.
"""

from lightning.pytorch.utilities import rank_zero_info

from llds.data import PromptTemplate
from llds.errors import ConfigurationError
from llds.modules.objective import Objective
from llds.rollout import EpisodeLimits, Oversampling
from llds.samplers import Sampler


def check_template(template: PromptTemplate, has_opening: bool) -> None:
    """Refuse a prompt template without a place for the opening tool's words, or one with a place for none."""
    if template.has_opening != has_opening:
        found = "an opening tool and no such place" if has_opening else "the place and no opening tool"
        raise ConfigurationError(
            "Expected {observation} in `data.template.text` exactly where there is a `model.opening_tool`, whose words "
            f"stand there, got {found}. Change one of them."
        )


def check_room(key: str, limits: EpisodeLimits, prompt_tokens: int, has_opening: bool) -> None:
    """Refuse prompts that leave no room for an action."""
    opening, words = (limits.observation_tokens, " plus the opening tool's observation") if has_opening else (0, "")
    if prompt_tokens + opening >= limits.total_tokens:
        raise ConfigurationError(
            f"Expected `data.max_prompt_tokens`{words} to be below `rollout.{key}.total_tokens` "
            f"({limits.total_tokens}), got {prompt_tokens}{f' + {opening}' if opening else ''}: the longest prompt "
            "would leave no room for an action. Change one of them."
        )


def check_overlap(objective: Objective, sampler: Sampler) -> None:
    """Refuse an overlap of iterations that nothing corrects, or that the sampler cannot do."""
    if objective.importance is None:
        raise ConfigurationError(
            "Expected `model.importance_correction` to be set where `rollout.overlap` is true, because "
            "trajectories are then sampled by older weights than those that train on them, got null. Set it, as "
            "-c llds:rollout/overlap does."
        )
    if not sampler.can_overlap:
        raise ConfigurationError(
            "Expected `rollout.sampler` to be one that can sample while the policy trains, where `rollout.overlap` "
            f"is true, got {type(sampler).__name__}. Use llds.samplers.TransformersSampler, or "
            "llds.samplers.VLLMServerSampler with `sleep: false`."
        )


def check_oversampling(oversampling: Oversampling, objective: Objective, batch_size: int) -> None:
    """Refuse over-sampling that could draw nothing, or that keeps what no term of the loss is for."""
    most = oversampling.most(batch_size)
    if most == batch_size:
        raise ConfigurationError(
            f"Expected `rollout.oversampling.max_factor` times `data.batch_size` ({batch_size}) to be at least one "
            f"prompt more, got {oversampling.max_factor:g}: no further prompt could be drawn. Raise it."
        )
    penalty = objective.active_llds
    preserves = penalty is not None and penalty.preserve == "non_negative"
    if oversampling.without_signal != "drop" and not preserves:
        raise ConfigurationError(
            "Expected `rollout.oversampling.without_signal` to be `drop` where no LLDS penalty preserves groups "
            "without a signal (`model.llds_penalty` with `preserve: non_negative`), got "
            f"`{oversampling.without_signal}`: they would cost time and thin out the policy loss. Set it to `drop`, or "
            "change the penalty."
        )
    if oversampling.without_signal == "drop" and preserves:
        rank_zero_info(
            "`rollout.oversampling` drops groups without a signal, which LLDS (`preserve: non_negative`) would "
            "preserve: it is left with the correct trajectories of the other groups. `without_signal: keep_correct` "
            "keeps those that are all right."
        )
