"""NaN and infinity, put into every place of a training where they may arise: none reaches a checkpoint or an export."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from safetensors.torch import load_file

from llds.callbacks import list_checkpoints
from tools.campaign.table import Outcome
from tools.campaign.training import SMALL, corpus, finish, fit_arguments

Place = Literal[
    "old log-probs", "behavior log-probs", "advantages", "gradient", "weights", "first moment", "second moment"
]
_CALLBACK = """\
    - class_path: tools.campaign.numbers.Poison
      init_args: {{place: {place}, iteration: {iteration}, value: {value}}}"""


class Poison(pl.Callback):
    """Puts a value that is no number into one place of a training, once.

    Args:
        place: Where.
        iteration: When.
        value: ``nan``, ``inf`` or ``-inf``.
    """

    def __init__(self, place: Place, iteration: int, value: str) -> None:
        self.place = place
        self.iteration = iteration
        self.value = float(value)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Wrap what is poisoned where it is made."""
        prepare = pl_module.prepare

        def prepared(batch: Any) -> Any:
            batch = prepare(batch)
            return self._poisoned(batch) if pl_module.iteration == self.iteration else batch

        pl_module.prepare = prepared
        weight = list(pl_module.policy.parameters())[-1]
        if self.place == "gradient":
            weight.register_hook(lambda grad: self._spoiled(grad) if pl_module.iteration == self.iteration else grad)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Poison what lies in memory between two iterations."""
        if pl_module.iteration != self.iteration:
            return
        with torch.no_grad():
            if self.place == "weights":
                next(pl_module.policy.parameters()).view(-1)[7] = self.value
            for state in trainer.optimizers[0].state.values():
                name = {"first moment": "exp_avg", "second moment": "exp_avg_sq"}.get(self.place)
                if name is not None:
                    state[name].view(-1)[0] = self.value

    def _poisoned(self, batch: Any) -> Any:
        names = {
            "old log-probs": "old_log_probs",
            "behavior log-probs": "behavior_log_probs",
            "advantages": "advantages",
        }
        name = names.get(self.place)
        value = None if name is None else getattr(batch, name)
        return batch if name is None or value is None else replace(batch, **{name: self._spoiled(value)})

    def _spoiled(self, value: torch.Tensor) -> torch.Tensor:
        changed = value.clone()
        changed.view(-1)[len(changed.view(-1)) // 2] = self.value
        return changed


def tries(draw: random.Random, folder: Path) -> Iterator[Outcome]:
    """Every place in turn, for ever."""
    passages = corpus(folder)
    for number in count():
        for place in get_args(Place):
            root = folder / f"run-{number}"
            yield Outcome(place, _try(place, root, passages, folder / "index", draw))
            shutil.rmtree(root, ignore_errors=True)


def _try(place: Place, root: Path, passages: Path, index: Path, draw: random.Random) -> str:
    value, iteration = draw.choice(["nan", "inf", "-inf"]), draw.randrange(1, 3)
    poison = _CALLBACK.format(place=place, iteration=iteration, value=f"'{value}'")
    settings = (*SMALL, f"--retrieval.retriever.corpus={passages}", "--model.kl_penalty=null")
    arguments = fit_arguments(root, settings, iterations=4, every=1, callbacks=poison, index=index)
    status = finish(arguments, root.with_suffix(".log"))
    said = root.with_suffix(".log").read_text(errors="replace")
    root.with_suffix(".log").unlink()
    if status is None:
        return "the run hangs"
    if "Traceback" in said:
        return f"{value}: a raw error: {' / '.join(said.splitlines()[-2:])[-300:]}"
    for path in list_checkpoints(root):
        state = torch.load(path, weights_only=True)
        values = [*state["state_dict"].values(), *_tensors(state["optimizer_states"])]
        if not all(bool(torch.isfinite(one).all()) for one in values):
            return f"{value} in {path.name}"
    exported = root / "policy" / "model.safetensors"
    if exported.exists() and not all(bool(torch.isfinite(one).all()) for one in load_file(exported).values()):
        return f"{value} in the exported policy"
    return ""


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list):
        for one in value:
            yield from _tensors(one)
