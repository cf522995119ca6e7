"""The ``.wandb`` file that a run of Weights & Biases writes on disk, also offline; needs the wandb package.

The file is a log in LevelDB's format (blocks of 32 KiB, each record in one fragment or several) behind a header of
seven bytes; every record is a message of wandb's protocol, of which the histories count.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from llds.errors import DataError
from llds.monitor.sources.vocabulary import Record

_BLOCK = 32 * 1024
_FILE_HEADER = 7
_FRAGMENT = struct.Struct("<IHB")
"""Checksum, length, and kind: 1 whole, 2 first, 3 middle, 4 last."""
_WHOLE, _FIRST, _LAST = 1, 2, 4


def read_wandb(path: Path) -> list[Record]:
    """The history of a run, one record per step; a file that is being written may end in the middle of one.

    Raises:
        DataError: If the wandb package is not there, or the file is none of its.
    """
    try:
        from google.protobuf.message import DecodeError
        from wandb.proto.wandb_internal_pb2 import Record as Message
    except ImportError as error:
        raise DataError(
            f"Expected the wandb package for reading {path}: pip install wandb; or export the run's history as CSV "
            "(run.history().to_csv)."
        ) from error
    data = path.read_bytes()
    if data[:4] != b":W&B":
        raise DataError(f"Expected a .wandb file in {path}, got something else.")
    records: list[Record] = []
    try:
        for content in _contents(data):
            message = Message()
            message.ParseFromString(content)
            if message.HasField("history"):
                items = {"/".join(item.nested_key) or item.key: item.value_json for item in message.history.item}
                records.append({name: json.loads(value) for name, value in items.items()})
    except (DecodeError, ValueError, RecursionError) as error:
        raise DataError(f"Expected a whole .wandb file in {path}, got record {len(records) + 1}: {error}.") from error
    return records


def _contents(data: bytes) -> Iterator[bytes]:
    """The records of the log."""
    at, parts = _FILE_HEADER, b""
    while at + _FRAGMENT.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _FRAGMENT.size:  # the rest of a block is padding
            at += left
            continue
        _, length, kind = _FRAGMENT.unpack_from(data, at)
        start = at + _FRAGMENT.size
        at = start + length
        if not kind or at > len(data):
            return
        parts = data[start:at] if kind in (_WHOLE, _FIRST) else parts + data[start:at]
        if kind in (_WHOLE, _LAST):
            yield parts
