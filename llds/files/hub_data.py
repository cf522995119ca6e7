"""Data files by name: ``hf://datasets/OWNER/NAME[@REVISION][/SPLIT or FILE]``, downloaded into the hub's cache.

What is read are the files of the repository (jsonl, json, csv, tsv, parquet), never its code. A split is the files
whose names say so: ``train.jsonl``, ``data/train-00000-of-00002.parquet``, ``distractor/train/0000.parquet``. Stands
above `llds.files.hub`, which knows repositories; `llds.files.reader` asks here where a path is on this machine.
"""

import re
from glob import escape
from pathlib import Path

from llds.errors import ConfigurationError, DataError
from llds.files.formats import SUFFIXES
from llds.files.hub import pin_of, remember, snapshot, split_name
from llds.paths import resolve_path

_PREFIX = re.compile(r"hf:/{1,2}")  # pathlib makes one slash of two
_NAME = re.compile(r"datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>refs/(?:convert|pr)/\w+|[^/]+))?(/(?P<rest>.*))?")
_PART = re.compile(r"/\d{4,5}$|[-_.]\d+-of-\d+$")
_ENDINGS = tuple(f"{suffix}{packed}" for suffix in SUFFIXES for packed in ("", ".gz"))
_FORM = "`hf://datasets/OWNER/NAME`, then perhaps @REVISION, a slash and a split or a file"
_LISTED = 10
_FOLDERS_OF_ALL = ("", "data", "default")

_fetched: dict[str, tuple[Path, ...]] = {}
"""Files by name and commit: a file is opened several times, and the hub is asked once."""


def is_on_hub(path: str | Path) -> bool:
    """Whether a path names something on the hub.

    Args:
        path: The path.
    """
    return _PREFIX.match(str(path)) is not None


def data_files(path: str | Path) -> list[Path]:
    """Return the files on this machine that hold what a path names: one, or the parts of a split in their order.

    Args:
        path: A path, ``llds:...``, or a name on the hub, which is downloaded where it is not in the cache.

    Raises:
        DataError: If a name cannot be had, or does not say which files are meant.
    """
    if not is_on_hub(path):
        return [resolve_path(path)]
    text = _PREFIX.sub("hf://", str(path), count=1)
    if pin_of(text) not in _fetched:
        name, revision, rest = _taken_apart(pin_of(text))
        try:
            files, commit = _fetch(name, revision, rest)
        except ConfigurationError as error:  # one of several bad files, which are named together
            raise DataError(str(error)) from error
        remember(text, f"hf://datasets/{name}@{commit}" + f"/{rest}" * bool(rest))
        _fetched[pin_of(text)] = files
    return list(_fetched[pin_of(text)])


def name_of_data(path: str | Path) -> str:
    """The name of the data that a path holds: the file's up to its first point; on the hub, its folder's or the set's.

    Args:
        path: The path.
    """
    if not is_on_hub(path):
        return resolve_path(path).name.split(".")[0]
    name, _, rest = _taken_apart(_PREFIX.sub("hf://", str(path), count=1))
    folder = rest.rpartition("/")[0].rpartition("/")[2]
    return name.rpartition("/")[2] if folder in _FOLDERS_OF_ALL else folder


def _taken_apart(text: str) -> tuple[str, str | None, str]:
    """Repository, revision, and what of it."""
    match = _NAME.fullmatch(text.removeprefix("hf://").rstrip("/"))
    if match is None or split_name(match["name"]) is None:
        raise DataError(f"Expected a data set by name as {_FORM}, got {text}. Correct the name.")
    return match["name"], match["revision"], match["rest"] or ""


def _fetch(name: str, revision: str | None, rest: str) -> tuple[tuple[Path, ...], str]:
    """The files, and the commit that they are of."""
    present = snapshot(name, revision, "dataset", "path", ["README.md"])
    commit = present.name
    chosen = _chosen(_listed(name, present), f"hf://datasets/{name}", rest)
    folder = snapshot(name, commit, "dataset", "path", [escape(file) for file in chosen], [])
    files = tuple(folder / file for file in chosen)
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(
            f"Expected {len(files)} files of {name}, got {len(files) - len(missing)}; {missing[0]} is not in the "
            "cache. Ask again where there is a network."
        )
    return files, commit


def _listed(name: str, present: Path) -> list[str]:
    """The files of a repository; without a network, those of it that are in the cache's folder of the commit."""
    from huggingface_hub import HfApi, constants

    try:
        return HfApi(endpoint=constants.ENDPOINT).list_repo_files(name, repo_type="dataset", revision=present.name)
    except Exception:  # of the library or its HTTP client; what the cache lacks is said when it is missed
        return [file.relative_to(present).as_posix() for file in present.rglob("*") if file.is_file()]


def _chosen(listed: list[str], shown: str, rest: str) -> list[str]:
    """The files that are meant, in order."""
    if rest in listed:
        return [rest]
    data = sorted(file for file in listed if file.lower().endswith(_ENDINGS))
    groups: dict[tuple[str, str], list[str]] = {}
    for file in data:
        groups.setdefault(_group(file), []).append(file)
    for fits in (_is_all, _is_named, _ends_with):
        found = {key: files for key, files in groups.items() if fits(key[0], rest)}
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            groups = found
            break
    names = sorted({f"{key}{ending}" if _is_twice(key, groups) else key for key, ending in groups})
    some = ", ".join(names[:_LISTED]) + ", ..." * (len(names) > _LISTED)
    what = f"{shown} with {rest}" if rest else f"one set of data files in {shown}"
    raise DataError(
        f"Expected {what}, got {some or 'no jsonl, json, csv, tsv or parquet file'}. "
        + (f"Name one of them, such as {shown}/{names[0]}." if names else "Choose another data set, or convert it.")
    )


def _group(file: str) -> tuple[str, str]:
    """Path of a file without the number of a part and without its ending, and that ending."""
    ending = next(one for one in sorted(_ENDINGS, key=len, reverse=True) if file.lower().endswith(one))
    return _PART.sub("", file[: -len(ending)]), ending


def _is_all(key: str, rest: str) -> bool:
    return not rest


def _is_named(key: str, rest: str) -> bool:
    return key == rest or any(key == f"{folder}/{rest}" for folder in _FOLDERS_OF_ALL if folder)


def _ends_with(key: str, rest: str) -> bool:
    return key.endswith(f"/{rest}") or key.startswith(f"{rest}/") or f"/{rest}/" in key


def _is_twice(key: str, groups: dict[tuple[str, str], list[str]]) -> bool:
    return sum(one == key for one, _ in groups) > 1
