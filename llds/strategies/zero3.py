"""DeepSpeed ZeRO-3 as a Lightning strategy: parameters, gradients and optimizer states in parts over the ranks.

Lightning's `DeepSpeedStrategy`, with three differences. It also runs on CPUs (gloo), so that what is tested there is
what runs on GPUs. It does not run a whole `training_step` inside one forward of DeepSpeed's engine: the engine counts
micro-batches by its forwards, and with several of them in one it silently keeps the gradient of the last alone. And
settings that llds owns cannot be given twice.
"""

import importlib.util
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from llds.errors import ConfigurationError
from llds.files import check_room, check_whole
from llds.strategies.checkpoint_io import errors_of_writing, save_file, tensor_bytes
from llds.strategies.partitioned import local_part, without_compiled_communication
from llds.strategies.ranks import exchange_within, gather, rank, together, world_size
from llds.strategies.zero3_checkpoint import CHECKPOINT_TAG, load_weights, ranks_of_checkpoint

_OWNED = {
    "gradient_accumulation_steps": "`model.optimization.mini_batch_size` and `micro_batch_size`",
    "train_batch_size": "`data.batch_size`",
    "train_micro_batch_size_per_gpu": "`model.optimization.micro_batch_size`",
    "gradient_clipping": "`model.optimization.max_grad_norm`",
    "optimizer": "`model.optimization`",
    "scheduler": "`model.optimization.schedule`",
    "fp16": "`trainer.precision`",
    "bf16": "`trainer.precision`",
    "zero_optimization.stage": "`trainer.strategy.class_path`",
    "zero_optimization.offload_optimizer": "`trainer.strategy.init_args.offload_optimizer`",
    "zero_optimization.offload_param": "`trainer.strategy.init_args.offload_parameters`",
    "zero_optimization.stage3_param_persistence_threshold": "`trainer.strategy.init_args.persistence_threshold`",
}
_KEY = "trainer.strategy.init_args.config"


class ZeRO3Strategy(DeepSpeedStrategy):
    """DeepSpeed ZeRO-3, on GPUs or CPUs.

    Args:
        offload_optimizer: Whether optimizer states and the step itself are in main memory.
        offload_parameters: Whether parameters wait in main memory until they are needed.
        persistence_threshold: Parameters of at most so many elements stay whole on every rank; 0 partitions all.
        timeout_minutes: Longest time that ranks wait for each other before the run ends with an error; it must be
            longer than the slowest rank's rollout.
        config: More settings of DeepSpeed, or a JSON file with them; those that llds owns are refused.

    Raises:
        ConfigurationError: If DeepSpeed is not installed, or a setting of `config` belongs elsewhere.
    """

    strategy_name = "zero3"

    def __init__(
        self,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        persistence_threshold: int = 100_000,
        timeout_minutes: float = 60.0,
        config: dict[str, Any] | str | None = None,
    ) -> None:
        _check_installed()
        if persistence_threshold < 0 or timeout_minutes <= 0:
            raise ConfigurationError(
                "Expected `trainer.strategy` to have persistence_threshold >= 0 and timeout_minutes > 0, got "
                f"{persistence_threshold} and {timeout_minutes}."
            )
        settings = _read(config)
        zero = dict(settings.pop("zero_optimization", {}))
        zero |= {"stage": 3, "stage3_param_persistence_threshold": persistence_threshold}
        for is_on, name in ((offload_optimizer, "offload_optimizer"), (offload_parameters, "offload_param")):
            if is_on:
                zero[name] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed guesses, and warns of its guess
        super().__init__(
            config={
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,  # torch's own AdamW steps on the CPU as well
                "train_micro_batch_size_per_gpu": 1,  # what DeepSpeed calls so is ours
                **settings,
                # DeepSpeed's own is the weights': in bf16, micro-batches whose gradients differ in size add up to less.
                "data_types": {"grad_accum_dtype": "fp32", **settings.get("data_types", {})},
                "zero_optimization": zero,
            },
            timeout=timedelta(minutes=timeout_minutes),
            exclude_frozen_parameters=True,
        )
        self.offload_optimizer = offload_optimizer

    def setup_environment(self) -> None:
        """Join the process group, on CPUs with gloo."""
        exchange_within(self._timeout or timedelta(minutes=30))
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_environment()
            return
        without_compiled_communication()
        # DeepSpeed wants a device with an index; its parent class refuses CPUs.
        self.parallel_devices = [torch.device("cpu", index) for index in range(len(self.parallel_devices or [0]))]
        DDPStrategy.setup_environment(self)

    def training_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Run the module's step as it is; its micro-batches go through `engine` one by one."""
        with self.precision_plugin.train_step_context():
            return cast(Any, self.lightning_module).training_step(*args, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a folder to which every rank adds its part, each file streamed and sealed; a collective operation.

        Raises:
            CheckpointError: If it cannot be written, where nobody collects errors (`errors_held`).
        """
        path = Path(str(self.broadcast(filepath)))
        engine = self.engine
        optimizer = self.own_optimizer
        own = [*map(local_part, trained(engine.module)), *optimizer.state.values(), optimizer.param_groups]
        needed = sum(gather(tensor_bytes(own)))
        if begun := gather(_begin(path, needed) if self.is_global_zero else None)[0]:
            with errors_of_writing(path):
                raise begun
            return
        engine.checkpoint_engine.save = _save_part
        state = {name: value for name, value in checkpoint.items() if name not in ("state_dict", "optimizer_states")}
        engine.save_checkpoint(
            str(path),
            client_state=state,
            tag=CHECKPOINT_TAG,
            save_latest=False,
            exclude_frozen_parameters=self.exclude_frozen_parameters,
        )
        if self.is_global_zero:
            with errors_of_writing(path):
                (path / "latest").write_text(CHECKPOINT_TAG)  # where DeepSpeed looks for the name

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint of ZeRO-3: to train on, by as many ranks as wrote it; to evaluate, by any number.

        Raises:
            ConfigurationError: If it is none, or training goes on with another number of ranks.
            CheckpointError: If it is damaged; with several ranks a `RankError`.
        """
        path = Path(str(checkpoint_path))
        writers = ranks_of_checkpoint(path)
        if writers is None:
            raise ConfigurationError(
                f"Expected `ckpt_path` to be a checkpoint of ZeRO-3 (a folder), got {path}. Without ZeRO-3 "
                "(`trainer.strategy`) the run that wrote it can go on."
            )
        module = cast(Any, self.lightning_module)
        is_fitting = module.trainer.state.fn == TrainerFn.FITTING
        if is_fitting and writers != self.world_size:
            raise ConfigurationError(
                f"Expected to go on with the {writers} ranks that wrote {path}, got {self.world_size}: optimizer "
                "states are in parts for so many. Set `trainer.devices` and `trainer.num_nodes`; or start a new run "
                "from its weights: llds export CHECKPOINT FOLDER, then `--model.policy` FOLDER."
            )
        together(lambda: check_whole(path, (rank(), world_size())))
        if not is_fitting:
            return load_weights(path / CHECKPOINT_TAG, module, writers)
        return super().load_checkpoint(checkpoint_path, weights_only)

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine: calling it is one forward of the module, for one micro-batch."""
        return self.deepspeed_engine

    def set_clipping(self, max_norm: float) -> None:
        """Set the norm to which DeepSpeed clips gradients; call before the model is made. Infinity does not clip."""
        cast(dict[str, Any], self.config)["gradient_clipping"] = max_norm if max_norm < float("inf") else 0.0

    def is_last_micro_batch(self, is_last: bool) -> None:
        """Announce, before its forward, whether an optimizer step follows the micro-batch."""
        self.engine.set_gradient_accumulation_boundary(is_last)

    def zero_grad(self) -> None:
        """Forget the gradients of the micro-batches so far, which Lightning's wrapper of the optimizer would not."""
        self.engine.optimizer.zero_grad()

    def has_finite_gradient(self) -> bool:
        """Whether all gradients of all ranks are finite; a collective operation."""
        return not self.engine.optimizer.has_overflow(partition_gradients=True)

    @property
    def own_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that steps on this rank's parts of the weights, in fp32."""
        return cast(torch.optim.Optimizer, self.engine.optimizer.optimizer)

    @property
    def gradient_norm(self) -> Tensor:
        """Norm of the whole gradient of the last step, before it was clipped."""
        return torch.as_tensor(self.engine.get_global_grad_norm())


def trained(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _begin(path: Path, needed: int) -> OSError | None:
    """Make the folder of a checkpoint, where there is room for all ranks' parts; returns what went wrong."""
    try:
        for folder in (path, path / CHECKPOINT_TAG):  # the run's own folder is not made again where it is gone
            folder.mkdir(exist_ok=True)
        check_room(path, needed)
    except OSError as error:
        return error
    return None


def _save_part(state_dict: dict[str, Any], path: str) -> None:
    """What DeepSpeed calls to write a file of a checkpoint."""
    with errors_of_writing(Path(path)):
        save_file(state_dict, Path(path))


def _check_installed() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigurationError(
            "Expected DeepSpeed for `trainer.strategy` llds.strategies.ZeRO3Strategy, got an installation without it. "
            "Install the extra: pip install 'llds[deepspeed]'."
        )


def _read(config: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """The user's settings, none of which llds owns."""
    if isinstance(config, str):
        if not Path(config).is_file():
            raise ConfigurationError(f"Expected `{_KEY}` to be a mapping or a JSON file, got {config}: no such file.")
        try:
            config = json.loads(Path(config).read_text())
        except ValueError as error:
            raise ConfigurationError(f"Expected `{_KEY}` to be a JSON file, got {config}: {error}.") from error
    settings = dict(cast(Mapping[str, Any], config or {}))
    inner = {f"zero_optimization.{name}": value for name, value in settings.get("zero_optimization", {}).items()}
    for name, owner in _OWNED.items():
        if name in settings or name in inner:
            raise ConfigurationError(
                f"Expected `{_KEY}` without `{name}`, got {(settings | inner)[name]!r}: set {owner} instead."
            )
    return settings
