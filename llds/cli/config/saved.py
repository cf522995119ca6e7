"""The resolved configuration, kept with the run."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from llds import __version__
from llds.cli.config.beside import with_lasting_paths
from llds.cli.config.own_classes import IMPORT_FROM, import_folders
from llds.files import redacted, redacted_command, with_pins

_ROOT = "${trainer.default_root_dir}"
_NOT_OF_THE_RUN = ("config", "ckpt_path", "weights_only")
_FOR_LOGGERS = ("seed_everything", "model", "data", "rollout", "retrieval", "signals", "collapse")
_MEASURE = "reward/mean"


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's folder when training starts; `llds fit -c` repeats it, in any folder.

    It is written once all settings have been checked and the data has been read. A run that is resumed with other
    settings replaces it. Evaluations leave it alone. Secrets (keys, tokens, passwords) are left out; models and data
    that were asked for by name have the commit that was used. Loggers that show settings beside curves get them too.

    Args:
        parser: Parser of the subcommand.
        config: What it parsed.
        command: The arguments of the command, for the file's first line.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, command: Sequence[str] = ()) -> None:
        super().__init__(parser, config)
        self.command = command
        self._to_tell: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Do nothing: it is too early to write."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file."""
        if not trainer.is_global_zero:
            return
        values: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        for name in _NOT_OF_THE_RUN:
            values.pop(name, None)
        values[IMPORT_FROM] = import_folders(values)
        values["trainer"]["logger"] = _with_link(values["trainer"]["logger"], values["trainer"]["default_root_dir"])
        values["trainer"]["default_root_dir"] = os.path.abspath(trainer.default_root_dir)
        values = redacted(with_pins(with_lasting_paths(values)))
        self._to_tell = dict(_flat({name: values[name] for name in _FOR_LOGGERS if name in values}))
        header = f"# llds {__version__}: {shlex.join(['llds', *redacted_command(self.command)])}\n"
        path = Path(trainer.default_root_dir) / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".partial-{path.name}")
        partial.write_text(header + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        os.replace(partial, path)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand the settings to the loggers, once: TensorBoard wants them with a value of a measure."""
        measured = trainer.callback_metrics.get(_MEASURE)
        if not self._to_tell or measured is None:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self._to_tell, {_MEASURE: float(measured)}, int(_iteration(trainer)))
            elif not isinstance(logger, CSVLogger):
                logger.log_hyperparams(self._to_tell)
        self._to_tell = {}


def _iteration(trainer: pl.Trainer) -> float:
    return float(trainer.callback_metrics.get("iteration", 0))


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted keys, as the command line takes them; lists as text."""
    if isinstance(value, dict):
        for word, one in value.items():
            inner = key if word in ("class_path", "init_args") else f"{key}.{word}".lstrip(".")
            yield from _flat(one, inner)
    else:
        yield key, value if isinstance(value, bool | int | float | str) else str(value)


def config_of_run(ckpt_path: str | Path | None) -> dict[str, Any]:
    """The configuration that the run of a checkpoint saved; empty where it saved none, or there is no checkpoint."""
    file = Path(ckpt_path or "").absolute().parent.parent / "config.yaml"  # of RUN/checkpoints/CHECKPOINT
    if ckpt_path is None or not file.is_file():
        return {}
    saved = yaml.safe_load(file.read_text(encoding="utf-8"))
    return saved if isinstance(saved, dict) else {}


def _with_link(value: Any, root: str | None) -> Any:
    """Loggers that write into the run's folder go on to do so when the file is used for another folder."""
    if isinstance(value, dict):
        return {name: _with_link(one, root) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_link(one, root) for one in value]
    return _ROOT if root is not None and value == root else value
