"""Checks of the rollout's settings against those of data and model, before anything is loaded or sampled.

What the rollout's values can get wrong by themselves is here too: they are the callback's own.
"""

from lightning.pytorch.utilities import rank_zero_info

from llds.data import PromptTemplate
from llds.errors import ConfigurationError
from llds.losses import Advantages
from llds.modules import SearchAgentModule
from llds.modules.objective import Objective
from llds.modules.policy.loading import load_config
from llds.modules.policy.positions import check_positions
from llds.modules.start_up import corrections
from llds.rollout import EpisodeLimits, ObservationEncoder, Oversampling
from llds.samplers import Sampler
from llds.types import SamplingParams


def check_law(group_size: int, sampling: SamplingParams, seed: int) -> None:
    """Refuse a sampling law of training whose trajectories could not be trained on."""
    if group_size < 2:
        raise ConfigurationError(
            f"Expected `rollout.group_size` >= 2 so that a trajectory can be compared with another of its prompt, "
            f"got {group_size}: every advantage would be 0. Raise it."
        )
    if sampling.temperature <= 0 or sampling.top_p < 1 or sampling.top_k > 0:
        raise ConfigurationError(
            "Expected `rollout.sampling` to have temperature > 0, top_p = 1 and top_k = 0, because the trainer "
            f"scores actions under the whole distribution, got {sampling}. Restrict `eval_sampling` instead."
        )
    if seed < 0:
        raise ConfigurationError(f"Expected `rollout.seed` >= 0, got {seed}.")


def check_template(template: PromptTemplate, has_opening: bool, may_open: bool = False) -> None:
    """Refuse a prompt template without a place for the opening tool's words, or one with a place for none."""
    if has_opening and may_open:
        raise ConfigurationError(
            "Expected `model.opening_tool` or `model.environment`, whose words stand at the same place of the prompt, "
            "got both. Remove one."
        )
    if template.has_opening and may_open:
        return  # for what an environment says, if it says anything
    if template.has_opening != has_opening:
        found = "an opening tool and no such place" if has_opening else "the place and no opening tool"
        raise ConfigurationError(
            "Expected {observation} in `data.template.text` exactly where there is a `model.opening_tool`, whose words "
            f"stand there, got {found}. Change one of them."
        )


def check_limits(key: str, limits: EpisodeLimits, pl_module: SearchAgentModule, prompt_tokens: int) -> None:
    """Refuse limits that leave a prompt no room for an action, or the tools none for an observation.

    Args:
        key: The limits' name in `rollout`.
        limits: Of an episode.
        pl_module: Has the tools, the protocol and the tokenizer.
        prompt_tokens: Most tokens of a prompt.
    """
    check_room(key, limits, prompt_tokens, pl_module.opening_tool is not None)
    config, name = load_config(pl_module.policy_path), f"rollout.{key}.total_tokens"
    check_positions(config, pl_module.policy_path, name, limits.total_tokens, prompt_tokens)
    pl_module.protocol.attach(pl_module.tokenizer, pl_module.agent_tools)
    names = [tool.name for tool in pl_module.agent_tools]
    ObservationEncoder(pl_module.tokenizer, pl_module.protocol, names).check_limit(limits.observation_tokens)


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
    if not corrections(objective):
        raise ConfigurationError(
            "Expected `model.importance_correction`, or a loss or selection that corrects for the sampler, where "
            "`rollout.overlap` is true, because trajectories are then sampled by older weights than those that train "
            "on them, got none. Set it, as -c llds:rollout/overlap does."
        )
    if not sampler.can_overlap:
        raise ConfigurationError(
            "Expected `rollout.sampler` to be one that can sample while the policy trains, where `rollout.overlap` "
            f"is true, got {type(sampler).__name__}. Use llds.samplers.TransformersSampler, or "
            "llds.samplers.VLLMServerSampler with `sleep: false`."
        )


def check_oversampling(
    oversampling: Oversampling, objective: Objective, advantages: Advantages | None, batch_size: int
) -> None:
    """Refuse over-sampling that could draw nothing, or that keeps what no term of the loss is for."""
    most = oversampling.most(batch_size)
    if most == batch_size:
        raise ConfigurationError(
            f"Expected `rollout.oversampling.max_factor` times `data.batch_size` ({batch_size}) to be at least one "
            f"prompt more, got {oversampling.max_factor:g}: no further prompt could be drawn. Raise it."
        )
    penalty = objective.active_llds
    preserves = penalty is not None and penalty.preserve == "non_negative"
    is_dropped = oversampling.without_signal == "drop"
    learns_from_ties = advantages is not None and advantages.learns_from_ties
    if not (is_dropped or preserves or learns_from_ties):
        raise ConfigurationError(
            "Expected `rollout.oversampling.without_signal` to be `drop` where nothing learns from groups of equal "
            "rewards (an LLDS penalty with `preserve: non_negative`, or an estimator such as SignedAdvantages), got "
            f"`{oversampling.without_signal}`: they would cost time and thin out the policy loss. Set it to `drop`."
        )
    if is_dropped and learns_from_ties:
        rank_zero_info(
            "`rollout.oversampling` drops groups of equal rewards, from which "
            f"{type(advantages).__name__} would learn. `without_signal: keep` keeps them."
        )
    if is_dropped and preserves:
        rank_zero_info(
            "`rollout.oversampling` drops groups without a signal, which LLDS (`preserve: non_negative`) would "
            "preserve: it is left with the correct trajectories of the other groups. `without_signal: keep_correct` "
            "keeps those that are all right."
        )
