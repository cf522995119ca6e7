"""Bit rot: one flipped bit, a block of zeros or a missing end in what a run has written; none of it may load unseen."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from llds.cli.training.checkpoint_path import check_checkpoint
from llds.errors import LLDSError
from llds.files import damage_of_folder
from tools.campaign.kills import Setup, is_equal, log, train
from tools.campaign.table import Outcome
from tools.campaign.training import SMALL, corpus

Damage = Callable[[bytearray, random.Random], None]


def flip(content: bytearray, draw: random.Random) -> None:
    """Change one bit."""
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def zero(content: bytearray, draw: random.Random) -> None:
    """Put 4 KiB of zeros where something else was."""
    start = draw.randrange(max(1, len(content) - 4096))
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))


def cut(content: bytearray, draw: random.Random) -> None:
    """Leave out the end."""
    del content[draw.randrange(len(content)) :]


DAMAGES: dict[str, Damage] = {"one flipped bit": flip, "4 KiB of zeros": zero, "cut off": cut}


def tries(draw: random.Random, folder: Path) -> Iterator[Outcome]:
    """Damages of a checkpoint and of an exported policy, for ever."""
    passages = corpus(folder)
    result = train(Setup((*SMALL, f"--retrieval.retriever.corpus={passages}"), 1, every=1), folder / "run", None, {})
    if result.exit_status != 0:
        yield Outcome("checkpoint", f"the run ended with {result.exit_status}: {log(folder / 'run')}")
        return
    checkpoint = folder / "run" / "checkpoints" / "iteration-000001.ckpt"
    whole, good = checkpoint.read_bytes(), torch.load(checkpoint, weights_only=True)
    damaged, policy = folder / "damaged" / checkpoint.name, folder / "run" / "policy"
    damaged.parent.mkdir()
    while True:
        for name, damage in DAMAGES.items():
            content = bytearray(whole)
            damage(content, draw)
            if content != whole:
                damaged.write_bytes(content)
                yield Outcome(f"checkpoint, {name}", _loads(damaged, good))
        yield Outcome("exported policy, one flipped bit", _policy_loads(policy, folder / "policy", draw))


def _loads(path: Path, good: object) -> str:
    """What is wrong if a damaged checkpoint is not refused."""
    try:
        check_checkpoint(path)
    except LLDSError:
        return ""
    return "" if is_equal(torch.load(path, weights_only=True), good) else "it loads with other values"


def _policy_loads(policy: Path, copy: Path, draw: random.Random) -> str:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(policy, copy)
    file = draw.choice(sorted(path for path in copy.iterdir() if path.name != "checksums.json"))
    content = bytearray(file.read_bytes())
    flip(content, draw)
    file.write_bytes(content)
    return "" if damage_of_folder(copy) else f"{file.name} is taken as it is"
