"""A folder's list of the checksums of its files, by which damage is found when it is read again."""

import json
from pathlib import Path

from llds.files.checksum import file_crc

MANIFEST = "checksums.json"


def write_manifest(folder: Path) -> None:
    """Write the list into the folder.

    Raises:
        OSError: If it cannot be written.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    values = {path.name: f"{file_crc(path):08x}" for path in files}
    (folder / MANIFEST).write_text(json.dumps({"crc32": values}, indent=1) + "\n")


def damage_of_folder(folder: Path) -> str:
    """What is wrong with a folder by its list; empty if nothing is, or if it has none. Reads all files of the list.

    Raises:
        OSError: If one cannot be read.
    """
    if not (folder / MANIFEST).is_file():
        return ""
    try:
        listed = dict(json.loads((folder / MANIFEST).read_text())["crc32"])
    except (ValueError, KeyError, TypeError) as error:
        return f"its {MANIFEST} is damaged ({error})"
    for name, expected in listed.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if f"{file_crc(folder / name):08x}" != expected:
            return f"{name} is not as it was written, by its checksum"
    return ""
