"""The trained policy as a plain transformers folder, at the end of training."""

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from llds.modules import SearchAgentModule


class ExportPolicy(pl.Callback):
    """Writes model and tokenizer to ``policy/`` in the run's folder when `fit` ends."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Write the folder."""
        folder = Path(trainer.default_root_dir) / "policy"
        pl_module.save_pretrained(folder)
        rank_zero_info(f"Trained policy: {folder} (loads in plain transformers)")
