"""A first look at ``--ckpt_path``, before anything is built: is it a checkpoint of llds?

Catches what would otherwise end in a page of another library's words: no file, a folder of something else, a Git-LFS
pointer, a file that was cut off, a checkpoint of another program, one that holds more than plain values and could run
code. Whether the weights fit the model is for the module.
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch

from llds.errors import ConfigurationError
from llds.files import check_whole
from llds.strategies.zero3_checkpoint import ranks_of_checkpoint

_LFS = b"version https://git-lfs.github.com/spec"
_ZIP = b"PK\x03\x04"
_ADVICE = "Checkpoints are in the folder checkpoints/ of a run; `last` is the latest of `trainer.default_root_dir`."


def check_checkpoint(path: Path, weights_only: bool = True) -> None:
    """Refuse what is no checkpoint of llds, or a damaged file. Reads it once, for its checksum; a folder is read later.

    Args:
        path: A file, or a folder that ZeRO-3 wrote.
        weights_only: Whether anything but tensors and plain values is refused; if not, the file may run code.

    Raises:
        ConfigurationError: Saying what it is instead.
        CheckpointError: If it is damaged; names the next older one.
    """
    if path.is_dir():
        if not ranks_of_checkpoint(path):
            raise _refusal(path, *_kind_of_folder(path))
        return
    if path.exists() and not path.is_file():
        raise _refusal(path, "a device or a pipe", "")  # which may never end
    if not zipfile.is_zipfile(path):
        raise _refusal(path, *_kind_of_file(path))
    check_whole(path)
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=weights_only)  # maps the weights
    except UnpicklingError as error:
        raise _refusal(path, *_kind_of_pickle(error)) from error
    except Exception as error:  # of a damaged pickle torch raises whatever its instructions happen to do
        raise _refusal(path, f"a file that is damaged or none ({_first_line(error)})", "") from error
    if not isinstance(content, dict) or not {"state_dict", "search_agent"} <= content.keys():
        raise _refusal(path, "a file of torch that llds did not write", "")


@contextmanager
def errors_of_damage(path: str | None) -> Iterator[None]:
    """Turn what torch raises when damaged weights are read into one sentence.

    Args:
        path: The checkpoint; None if there is none.

    Raises:
        ConfigurationError: If the file is damaged.
    """
    try:
        yield
    except RuntimeError as error:
        if path is None or "PytorchStreamReader" not in str(error):
            raise
        raise _refusal(Path(path), f"a file that is damaged ({_first_line(error)})", "") from error


def _kind_of_file(path: Path) -> tuple[str, str]:
    """What a file is that is no zip archive, and what to do."""
    if not path.exists():
        return "no such file", "" if path.name != "best" else "llds keeps the latest checkpoints, none as the best. "
    with path.open("rb") as file:
        head = file.read(len(_LFS))
    if not head:
        return "an empty file", ""
    if head == _LFS:
        return "a Git-LFS pointer instead of the file itself", "Fetch it: git lfs pull. "
    if head.startswith(_ZIP):
        return f"a file that was cut off after {path.stat().st_size:,} bytes", "Copy it again, or take an older one. "
    return "a file that is none", ""


def _kind_of_pickle(error: UnpicklingError) -> tuple[str, str]:
    """What a file holds that torch does not load as plain values, and what to do."""
    names = re.findall(r"GLOBAL ([\w.]+)", str(error))
    if not names:
        return f"a file that is damaged or none ({_first_line(error)})", ""
    found = f"a file with an object of {names[0]} in it, and loading such a file can run code that it brings"
    return found, "If you trust who wrote it: --weights_only false. "


def _kind_of_folder(folder: Path) -> tuple[str, str]:
    """What a folder is that is no checkpoint, and what to do."""
    if (folder / "config.json").is_file():
        return "the folder of a model", f"Measure a model with --model.policy {folder}, without --ckpt_path. "
    if (folder / "checkpoints").is_dir():
        way = f"Name a file in it, or use --trainer.default_root_dir {folder} --ckpt_path last. "
        return "the folder of a run", way
    return "a folder that is none", ""


def _refusal(path: Path, found: str, advice: str) -> ConfigurationError:
    return ConfigurationError(
        f"Expected `ckpt_path` to be a checkpoint or `last`, got {path}: {found}. {advice}{_ADVICE}"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
