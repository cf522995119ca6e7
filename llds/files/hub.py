"""What is named by its repository on the hub: downloaded once into the hub's cache, and pinned to a commit.

``NAME`` is the newest state of a repository, ``NAME@REVISION`` a branch, a tag or a commit. Cache, mirror, token and
offline mode are those of huggingface_hub (``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``). By its locks
several processes may ask at once: one downloads a file, the others wait and find it. Code is never among the files.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from llds.errors import ConfigurationError
from llds.files.rows import reason

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "tekken.json",
    "*.model",
    "chat_template*",
)
"""Patterns of the files that a model needs: no pickles, whatever else lies there."""

NEVER = ("*.py", "*.bin", "*.pt", "*.pkl", "*/*", "consolidated*")
"""Patterns of what stays on the hub: code, pickles, and a model's second copy in another format."""

_NAME = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?", re.ASCII)
_COMMIT = re.compile(r"@([0-9a-f]{40})(?=/|$)")

_pins: dict[str, str] = {}
"""What was asked for by name in this process, or in the run that goes on, and the same with its commit."""


def split_name(text: str) -> tuple[str, str | None] | None:
    """The repository, ``OWNER/NAME``, and the revision that a text names; None where it cannot be a name."""
    match = _NAME.fullmatch(text)
    return (match["name"], match["revision"]) if match else None


def snapshot(
    name: str,
    revision: str | None,
    kind: Literal["model", "dataset"],
    key: str,
    allow: Sequence[str] = MODEL_FILES,
    ignore: Sequence[str] = NEVER,
) -> Path:
    """Return the folder of a repository's files at one commit; what of them is missing in the cache is downloaded.

    Args:
        name: The repository, ``OWNER/NAME``.
        revision: A branch, a tag or a commit; None is the default branch.
        kind: Of repository.
        key: The key of the configuration that named it, for errors.
        allow: Patterns of the files that are wanted; ``*`` stands for slashes, too.
        ignore: Patterns of files among them that are not.

    Returns:
        A folder whose name is the commit.

    Raises:
        ConfigurationError: If it does not exist, may not be read, or cannot be reached and is not in the cache.
    """
    from huggingface_hub import snapshot_download  # imported here: it takes a third of a second

    try:
        return Path(
            snapshot_download(
                name, repo_type=kind, revision=revision, allow_patterns=list(allow), ignore_patterns=list(ignore)
            )
        )
    except Exception as error:  # of the library, of its HTTP client, of either's older releases
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        asked = f"{name}@{revision}" if revision else name
        raise ConfigurationError(
            f"Expected `{key}` to name a {kind} that can be read, got {asked}{_refusal(error, name, kind, key)}"
        ) from error


def remember(text: str, pinned: str) -> None:
    """From now on a text means one commit.

    Args:
        text: What was asked for, such as ``OWNER/NAME@main``.
        pinned: The same with the commit that `snapshot` found, ``OWNER/NAME@COMMIT``.
    """
    _pins[text] = pinned


def pin_of(text: str) -> str:
    """The text with its commit where that is known; else as it is."""
    return _pins.get(text, text)


def with_pins(value: Any) -> Any:
    """A configuration in which everything that was asked for by name has its commit."""
    if isinstance(value, dict):
        return {name: with_pins(one) for name, one in value.items()}
    if isinstance(value, list):
        return [with_pins(one) for one in value]
    return pin_of(value) if isinstance(value, str) else value


def recall_pins(value: Any) -> None:
    """Let names mean the commits that a run was begun with.

    Args:
        value: The configuration that it saved, or a part of it.
    """
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            recall_pins(one)
    elif isinstance(value, str) and _COMMIT.search(value):
        _pins[_COMMIT.sub("", value)] = value


def _refusal(error: Exception, name: str, kind: str, key: str) -> str:
    """The rest of the sentence: what is wrong, and what to do."""
    from huggingface_hub import constants, errors

    host = constants.ENDPOINT
    here = "no folder here, and " if kind == "model" else ""
    page = f"{host}/{'datasets/' if kind == 'dataset' else ''}{name}"
    login = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return f", which is gated: ask for access at {page}, then {login}."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f": {here}{host} has no such {kind}. Check the spelling in `{key}`; if it is private, {login}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f": the {kind} has no such revision. Take one of {page}/commits, or leave it out for the newest."
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__ or error.__context__
        why = (
            "HF_HUB_OFFLINE is set"
            if constants.HF_HUB_OFFLINE
            else f"{host} did not give it ({reason(cause if isinstance(cause, Exception) else error)})"
        )
        get = f"hf download {name}{' --repo-type dataset' if kind == 'dataset' else ''}"
        return (
            f": {here}it is not in the cache {constants.HF_HUB_CACHE}, or not whole, and {why}. Ask again, fetch it "
            f"where there is a network (`{get}`), or give a folder; what has arrived is kept."
        )
    return f": {reason(error)}. Ask again; what has arrived is kept."
