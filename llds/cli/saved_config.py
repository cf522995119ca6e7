"""The resolved configuration, kept with the run."""

import os
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.cli import SaveConfigCallback


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's folder when training starts; `llds fit -c` repeats the run from it.

    It is written once all settings have been checked and the data has been read. A run that is resumed with other
    settings replaces it. Evaluations leave it alone.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Do nothing: it is too early to write."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file."""
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".partial-{path.name}")
        partial.write_text(self.parser.dump(self.config, skip_none=False))
        os.replace(partial, path)
