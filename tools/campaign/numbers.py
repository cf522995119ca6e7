"""NaN and infinity, put into every place of a training where they may arise: none reaches a checkpoint or an export."""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from safetensors.torch import load_file

from llds.callbacks import list_checkpoints
from tools.campaign.kills import log
from tools.campaign.table import Outcome
from tools.campaign.training import SMALL, corpus, finish, fit_arguments

Passing = Literal["old log-probs", "behavior log-probs", "advantages", "gradient"]
"""What belongs to a step, which is then skipped."""
Lasting = Literal["weights", "first moment", "second moment"]
"""What the next steps go on from, so that the run ends."""
_CALLBACK = """\
    - class_path: tools.campaign.numbers.Poison
      init_args: {{places: {places}, values: {values}}}"""
_MARK = "poisoned: "
_PATIENT = "--model.optimization.max_nonfinite_steps=20"  # a fault in each iteration is more than a run should bear


class Poison(pl.Callback):
    """Puts a value that is no number into a place of a training, in each iteration from the second on into the next.

    Args:
        places: Where.
        values: ``nan``, ``inf`` or ``-inf``, for each place.
    """

    def __init__(self, places: list[Passing | Lasting], values: list[str]) -> None:
        self.places = places
        self.values = [float(value) for value in values]
        self._number = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Wrap what is poisoned where it is made."""
        prepare = pl_module.prepare
        pl_module.prepare = lambda batch: self._poisoned(prepare(batch))
        weight = list(pl_module.policy.parameters())[-1]
        weight.register_hook(lambda grad: self._spoiled(grad) if self._place == "gradient" else grad)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Poison what lies in memory between two iterations."""
        self._number = pl_module.iteration - 1
        if self._place:
            print(f"{_MARK}{self._place}", flush=True)
        with torch.no_grad():
            if self._place == "weights":
                next(pl_module.policy.parameters()).view(-1)[7] = self.values[self._number]
            for state in trainer.optimizers[0].state.values():
                name = {"first moment": "exp_avg", "second moment": "exp_avg_sq"}.get(self._place)
                if name is not None:
                    state[name].view(-1)[0] = self.values[self._number]

    @property
    def _place(self) -> str:
        """What is poisoned in this iteration; empty for nothing."""
        return self.places[self._number] if 0 <= self._number < len(self.places) else ""

    def _poisoned(self, batch: Any) -> Any:
        names = {
            "old log-probs": "old_log_probs",
            "behavior log-probs": "behavior_log_probs",
            "advantages": "advantages",
        }
        name = names.get(self._place)
        value = None if name is None else getattr(batch, name)
        return batch if name is None or value is None else replace(batch, **{name: self._spoiled(value)})

    def _spoiled(self, value: torch.Tensor) -> torch.Tensor:
        changed = value.clone()
        changed.view(-1)[len(changed.view(-1)) // 2] = self.values[self._number]
        return changed


def tries(draw: random.Random, folder: Path) -> Iterator[Outcome]:
    """Runs with a fault in each iteration: in all places of a step, last in one that steps go on from; for ever."""
    passages = corpus(folder)
    for number in count():
        root, lasting = folder / f"run-{number}", draw.choice(get_args(Lasting))
        places = [*draw.sample(get_args(Passing), len(get_args(Passing))), lasting]
        wrong = _try(places, root, passages, folder / "index", draw)
        happened = root.with_suffix(".log").read_text(errors="replace").count(_MARK)
        wrong = wrong or ("" if happened else f"nothing was put anywhere: {log(root)}")
        yield Outcome(f"each place of a step, then {lasting}", wrong, max(happened, 1))
        root.with_suffix(".log").unlink()
        shutil.rmtree(root, ignore_errors=True)


def _try(places: Sequence[str], root: Path, passages: Path, index: Path, draw: random.Random) -> str:
    """What is wrong with a run into which values were put that are no numbers."""
    drawn = draw.choices(["nan", "inf", "-inf"], k=len(places))
    poison = _CALLBACK.format(places=f"[{', '.join(places)}]", values=drawn)
    settings = (*SMALL, f"--retrieval.retriever.corpus={passages}", "--model.kl_penalty=null", _PATIENT)
    arguments = fit_arguments(root, settings, iterations=len(places) + 2, every=1, callbacks=poison, index=index)
    status = finish(arguments, root.with_suffix(".log"))
    said = root.with_suffix(".log").read_text(errors="replace")
    what = ", ".join(f"{value} in {place}" for place, value in zip(places, drawn, strict=True))
    if status is None:
        return "the run hangs"
    if "Traceback" in said:
        return f"{what}: a raw error: {' / '.join(said.splitlines()[-2:])[-300:]}"
    for path in list_checkpoints(root):
        state = torch.load(path, weights_only=True)
        values = [*state["state_dict"].values(), *_tensors(state["optimizer_states"])]
        if not all(bool(torch.isfinite(one).all()) for one in values):
            return f"{what}: some in {path.name}"
    exported = root / "policy" / "model.safetensors"
    if exported.exists() and not all(bool(torch.isfinite(one).all()) for one in load_file(exported).values()):
        return f"{what}: some in the exported policy"
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
