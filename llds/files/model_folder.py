"""Folders of models in the format of transformers: read without a network, and without running code that they bring."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from llds.errors import ConfigurationError, LLDSError
from llds.files.rows import reason


class _FromFolder(TypedDict):
    local_files_only: bool
    trust_remote_code: bool


FROM_FOLDER: _FromFolder = {"local_files_only": True, "trust_remote_code": False}
"""Arguments of every ``from_pretrained``. Left to itself transformers asks on the terminal whether to run such code."""


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
