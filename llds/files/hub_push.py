"""A model's folder as a repository of the hub; the way back is `llds.files.hub`.

Address, token and offline mode are those of huggingface_hub (``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``).
"""

from pathlib import Path

from llds.errors import ConfigurationError
from llds.files.checksum import MANIFEST, damage_of_folder
from llds.files.hub import MODEL_FILES, split_name
from llds.files.rows import reason

PUSHED = (*MODEL_FILES, MANIFEST, "README.md", "LICENSE*")
"""Patterns of what leaves this machine; whatever else lies in the folder stays."""

_WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]


def push_folder(folder: Path, name: str, *, is_public: bool, message: str) -> str:
    """Upload a model as one commit; weights of an earlier commit that it does not have go.

    Args:
        folder: Of the model, in the format of transformers.
        name: The repository, ``OWNER/NAME``; made when missing.
        is_public: Whether everybody may read it.
        message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        ConfigurationError: If the folder is no model or damaged, the name is none, there is no token, the hub refuses
            or cannot be reached, or the repository is public and that was not asked for.
    """
    _check(folder, name)
    from huggingface_hub import HfApi  # imported here: it takes a third of a second

    api = HfApi()
    try:
        api.create_repo(name, private=not is_public, exist_ok=True)
        if not is_public and not api.model_info(name).private:
            raise ConfigurationError(
                f"Expected {name} to be private, got a repository that everybody may read. Add --public."
            )
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=message, allow_patterns=list(PUSHED),
            ignore_patterns=["*/*"], delete_patterns=_WEIGHTS,
        )  # fmt: skip
    except ConfigurationError:
        raise
    except Exception as error:  # of the library, of its HTTP client, of either's older releases
        raise ConfigurationError(
            f"Expected to push {folder} to {api.endpoint}/{name}, got {_refusal(error)}"
        ) from error
    return str(commit.commit_url)


def _check(folder: Path, name: str) -> None:
    """What needs no network.

    Raises:
        ConfigurationError: As `push_folder`.
    """
    from huggingface_hub import constants, get_token

    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ConfigurationError(
            f"Expected a model's folder (config.json, *.safetensors) or a run's with `policy/` in it, got {folder}. "
            "`llds export` makes one of a checkpoint."
        )
    if found := damage_of_folder(folder):
        raise ConfigurationError(f"Expected {folder} as it was written, got damage: {found}. Export it again.")
    if (split_name(name) or ("", ""))[1] is not None:  # no name, or one with a revision
        raise ConfigurationError(f"Expected the repository's name as OWNER/NAME, got {name!r}.")
    if constants.HF_HUB_OFFLINE:
        raise ConfigurationError("Expected a network to push, got HF_HUB_OFFLINE=1. Unset it.")
    if not get_token():
        raise ConfigurationError(
            "Expected a token of the hub that may write, got none. Log in with `hf auth login`, or set HF_TOKEN."
        )


def _refusal(error: Exception) -> str:
    """What came, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # of one of several files
    kinds = {kind.__name__ for kind in type(error).__mro__}  # its releases differ in the HTTP client
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status == 401:
        return "a token that the hub does not know. Log in again with `hf auth login`, or set another HF_TOKEN."
    if status == 403:
        return "a token that may not write there. Check OWNER, and that the token has the right to write."
    if status == 404:
        return "no such owner or repository. Check the spelling of OWNER/NAME."
    if kinds & {"TransportError", "ConnectionError"}:
        return f"no connection ({reason(error)}). Check the network and HF_ENDPOINT, then push again."
    return f"{reason(error)}. Push again: what has arrived is not sent twice."
