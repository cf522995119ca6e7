"""Checks of settings against each other when training starts, before any weight is loaded.

A value that is wrong by itself is refused where it is given; here is what only two of them together can get wrong.
"""

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from llds.errors import ConfigurationError
from llds.losses import Advantages, Loss, Selection
from llds.losses.selections.selection import proxy_share
from llds.modules.objective import Objective
from llds.modules.optimization import Optimization
from llds.paths import resolve_path
from llds.strategies import ZeRO3Strategy, gather, ranks_of_checkpoint


def check_training(trainer: pl.Trainer, prompts: int, optimization: Optimization, objective: Objective) -> None:
    """Refuse settings that cannot train.

    Args:
        trainer: The trainer of the run.
        prompts: Prompts per iteration.
        optimization: Batch sizes.
        objective: The loss.

    Raises:
        ConfigurationError: Naming the keys and a way out.
    """
    _check_trainer(trainer)
    if prompts < trainer.world_size:
        raise ConfigurationError(
            f"Expected `data.batch_size` to be at least the number of processes, {trainer.world_size} "
            f"(`trainer.devices` x `trainer.num_nodes`), got {prompts} prompts: some would have none to roll out. "
            "Raise it, or take fewer processes."
        )
    if prompts % optimization.mini_batch_size:
        most = min(optimization.mini_batch_size, max(prompts // 2, 1))  # two steps at least, for an anchor `old`
        fitting = next(size for size in range(most, 0, -1) if prompts % size == 0)
        raise ConfigurationError(
            f"Expected `data.batch_size` to be a multiple of `model.optimization.mini_batch_size`, got {prompts} and "
            f"{optimization.mini_batch_size} prompts. Change one of them: a mini_batch_size of {fitting} would fit."
        )
    penalty = objective.active_llds
    if penalty is not None and penalty.anchor == "old" and optimization.steps(prompts) == 1:
        raise ConfigurationError(
            "Expected at least two optimizer steps per iteration for an LLDS penalty with anchor `old`, got one "
            f"(`data.batch_size` = `model.optimization.mini_batch_size` = {prompts}, `model.optimization.epochs` = 1): "
            "the policy is then the old policy itself and the penalty always 0. Make mini_batch_size smaller, or set "
            "`model.llds_penalty.anchor` to `lagged`."
        )


def check_objective(objective: Objective, advantages: Advantages | None) -> None:
    """Refuse parts of the loss that do not go together.

    Args:
        objective: The loss.
        advantages: The estimator; None is GRPO's.

    Raises:
        ConfigurationError: Naming the keys and a way out.
    """
    proxy_share(objective.selections)
    names = ["policy", "kl", "llds", *(term.name for term in objective.further)]
    if len(set(names)) < len(names):
        raise ConfigurationError(
            f"Expected `model.terms` to hold terms of different names, and none called policy, kl or llds, got "
            f"{names[3:]}: a name is that of its curve. Take one out, or give a class of yours another `name`."
        )
    if len(corrections(objective)) > 1:
        raise ConfigurationError(
            "Expected one correction for the gap between sampler and trainer, got "
            f"{' and '.join(corrections(objective))}: tokens would be weighed twice for the same gap. Take one out."
        )
    loss = objective.policy_loss
    if not loss.is_by_token and advantages is not None and advantages.is_by_token:
        raise ConfigurationError(
            f"Expected a policy loss with a term per token for {type(advantages).__name__} (`model.advantages`), whose "
            f"advantages differ within a trajectory, got {type(loss).__name__} (`model.policy_loss`). Use "
            "TurnRatioLoss or GRPOLoss."
        )
    chooser = next((one for one in objective.selections if one.chooses_tokens), None)
    if not loss.is_by_token and chooser is not None:
        raise ConfigurationError(
            f"Expected a policy loss with a term per token for {type(chooser).__name__} (`model.selections`), got "
            f"{type(loss).__name__} (`model.policy_loss`), which would take the mean over a trajectory. Use "
            "TurnRatioLoss or GRPOLoss."
        )


def corrections(objective: Objective) -> list[str]:
    """What allows for the gap between sampler and trainer, by key and class; one at most may.

    Args:
        objective: The loss.
    """
    places: list[tuple[str, Loss | Selection | None]] = [
        ("policy_loss", objective.policy_loss),
        ("importance_correction", objective.importance),
        *(("selections", one) for one in objective.selections),
    ]
    return [f"`model.{key}` ({type(one).__name__})" for key, one in places if one and one.corrects_sampler]


def check_checkpoint(trainer: pl.Trainer) -> None:
    """Refuse a checkpoint of ZeRO-3 for a run without it.

    Raises:
        ConfigurationError: Naming both ways out.
    """
    path = trainer.ckpt_path
    if path and not isinstance(trainer.strategy, ZeRO3Strategy) and ranks_of_checkpoint(Path(path)):
        raise ConfigurationError(
            f"Expected a run with ZeRO-3 (`trainer.strategy`) for `ckpt_path` {path}, which it wrote, got none. Add "
            "the settings that it was trained with; or make a model folder of it (llds export), "
            "for `--model.policy`."
        )


def _check_trainer(trainer: pl.Trainer) -> None:
    if str(trainer.precision).startswith("16"):
        raise ConfigurationError(
            "Expected `trainer.precision` to be 32-true, bf16-mixed, bf16-true or 64-true, got "
            f"{trainer.precision}: its narrow range needs a scaled loss, which does not fit several optimizer steps "
            "per batch. Use bf16-mixed."
        )
    one_batch = trainer.fast_dev_run  # type: ignore[attr-defined]
    if trainer.max_epochs in (None, -1) or (trainer.max_steps != -1 and not one_batch):
        raise ConfigurationError(
            "Expected the length of the run in `data.iterations`, with `trainer.max_epochs` = 1, got "
            f"`trainer.max_epochs` = {trainer.max_epochs} and `trainer.max_steps` = {trainer.max_steps}. Set "
            "`trainer.max_steps` back to -1: it counts optimizer steps, which would cut an iteration in two."
        )


def check_commit(policy_path: str) -> None:
    """Refuse a name that means another commit on another rank: its repository changed while they started.

    Args:
        policy_path: Folder of the policy, or its name on the hub with the commit.

    Raises:
        ConfigurationError: Naming two commits.
    """
    is_folder = resolve_path(policy_path).exists()  # which may have another path on another machine
    found = [name for name in gather(None if is_folder else policy_path) if name is not None]
    if len(set(found)) > 1:
        raise ConfigurationError(
            f"Expected `model.policy` to be one commit on all ranks, got {found[0]} and "
            f"{next(one for one in found if one != found[0])}. Name the commit: --model.policy {found[0]}."
        )
    if not is_folder:
        rank_zero_info(f"`model.policy` is {policy_path}")
