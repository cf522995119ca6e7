"""Folders of models in the format of transformers, here or by name, and reading them without code that they bring."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from llds.errors import ConfigurationError, LLDSError
from llds.files.hub import MODEL_FILES, pin_of, remember, snapshot, split_name
from llds.files.rows import reason
from llds.paths import resolve_path


class _FromFolder(TypedDict):
    local_files_only: bool
    trust_remote_code: bool


FROM_FOLDER: _FromFolder = {"local_files_only": True, "trust_remote_code": False}
"""Arguments of every ``from_pretrained``. Left to itself transformers asks on the terminal whether to run such code."""


def model_folder(model: str, key: str, *, is_config_enough: bool = False) -> Path:
    """Return the folder of a model: one that exists, else a snapshot of what the hub has under that name.

    Args:
        model: A folder, ``llds:...`` for one in the package, or ``OWNER/NAME[@REVISION]`` on the hub.
        key: The key of the configuration that names it, for errors.
        is_config_enough: Whether only config.json is wanted of what the hub has.

    Raises:
        ConfigurationError: If it is no folder here and cannot be had from the hub, or has no weights in safetensors.
    """
    path = resolve_path(model)
    named = None if path.exists() else split_name(pin_of(model))
    if named is None:
        return path
    folder = snapshot(*named, "model", key, ("config.json",) if is_config_enough else MODEL_FILES)
    remember(model, f"{named[0]}@{folder.name}")
    if not is_config_enough and not any(folder.glob("*.safetensors")):
        raise ConfigurationError(
            f"Expected `{key}` to name a model with weights in safetensors, got {model}, which has none: other formats "
            "can run code when they are read. Choose a model or a revision with safetensors."
        )
    return folder


@contextmanager
def errors_of_folder(expected: str, folder: Path, advice: str) -> Iterator[None]:
    """Turn whatever loading from a folder raises into one sentence; errors of llds pass as they are.

    Args:
        expected: What it should be, up to "got".
        folder: The folder.
        advice: What to do.

    Raises:
        ConfigurationError: If it does not load.
    """
    try:
        yield
    except LLDSError:
        raise
    except Exception as error:  # as many kinds as there are file formats, bare `Exception`s of tokenizers among them
        found = f"which does not load: {reason(error)}"
        if "trust_remote_code" in str(error):
            found = "which brings code of its own, and llds runs none"
        raise ConfigurationError(f"{expected} {folder}, {found}. {advice}") from error
