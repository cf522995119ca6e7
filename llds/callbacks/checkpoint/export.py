"""The trained policy as a plain transformers folder, at the end of training."""

import shutil
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError

from llds.callbacks.checkpoint.finite import what_is_not_finite
from llds.callbacks.checkpoint.folder import flush_all
from llds.errors import CheckpointError
from llds.evaluation.model_card import Exported, write_model_card
from llds.files import check_room, pin_of, write_manifest
from llds.modules import SearchAgentModule, hash_on_first_rank
from llds.strategies import best_effort, gather, rank, whole_shape

_PARTIAL, _REPLACED = ".policy.partial", ".policy.replaced"


class ExportPolicy(pl.Callback):
    """Writes model and tokenizer to ``policy/`` in the run's folder when `fit` ends, whole or not at all.

    A list of checksums is beside them; by it damage is found when llds loads the folder. So is a model card
    (``README.md``), which is not in that list: it may be edited.
    """

    def on_fit_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule) -> None:
        """Write the folder.

        Raises:
            CheckpointError: If the weights are not finite, or the disk does not take them.
        """
        folder = Path(trainer.default_root_dir) / "policy"
        if found := what_is_not_finite(pl_module):
            raise CheckpointError(f"Expected finite weights to export, got {found} with NaN or infinity: no {folder}.")
        partial = folder.with_name(_PARTIAL)
        error = gather(_begin(partial, folder, pl_module) if rank() == 0 else "")[0]
        if not error:
            error = gather(_write(partial, folder, pl_module))[0]
        if error:
            raise CheckpointError(
                f"Expected to write the trained policy to {folder}, got: {error}. Make room; its weights are in the "
                "last checkpoint, of which `llds export` makes such a folder."
            )
        rank_zero_info(f"Trained policy: {folder} (loads in plain transformers)")


def _begin(partial: Path, folder: Path, module: SearchAgentModule) -> str:
    """Make an empty folder, where there is room for the policy; returns what the disk said against it.

    What a process has left that was killed while it exported is put in order first.
    """
    replaced = folder.with_name(_REPLACED)
    needed = sum(whole_shape(one).numel() * one.element_size() for one in module.policy.base_model.parameters())
    try:
        if replaced.exists() and not folder.exists():
            replaced.replace(folder)
        for left in (partial, replaced):
            if left.exists():
                shutil.rmtree(left)
        partial.mkdir()
        check_room(partial, needed)
    except OSError as error:
        return str(error)
    return ""


def _write(partial: Path, folder: Path, module: SearchAgentModule) -> str:
    """Write the folder and give it its name; returns what went wrong. Every rank must call, the first one writes."""
    replaced = folder.with_name(_REPLACED)
    exported = Exported(module.iteration, hash_on_first_rank(module.policy.weights()))
    try:
        module.save_pretrained(partial)
        if rank() == 0:
            write_manifest(partial)
            with best_effort("No model card"):
                write_model_card(partial, folder.parent, pin_of(module.policy_path), exported)
            flush_all(partial)
            if folder.exists():
                folder.replace(replaced)
            partial.replace(folder)
    except (OSError, SafetensorError) as error:  # of the first rank, after all that is collective
        return str(error)
    if rank() == 0:
        shutil.rmtree(replaced, ignore_errors=True)
    return ""
