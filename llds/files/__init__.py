"""Files: the one reader of questions and of corpora, files written whole and without secrets, folders of models."""

from llds.files.atomic import write_atomically
from llds.files.checksum import damage_of_folder, file_hash, write_manifest
from llds.files.formats import FileFormat
from llds.files.hub import pin_of, recall_pins, with_pins
from llds.files.model_folder import FROM_FOLDER, errors_of_folder, model_folder
from llds.files.reader import read_rows
from llds.files.redaction import redacted, redacted_command
from llds.files.rows import BadRows, OnBadRow, Row
from llds.files.sealed import check_whole, write_sealed
from llds.files.space import check_room

__all__ = [
    "FROM_FOLDER",
    "BadRows",
    "FileFormat",
    "OnBadRow",
    "Row",
    "check_room",
    "check_whole",
    "damage_of_folder",
    "errors_of_folder",
    "file_hash",
    "model_folder",
    "pin_of",
    "read_rows",
    "recall_pins",
    "redacted",
    "redacted_command",
    "with_pins",
    "write_atomically",
    "write_manifest",
    "write_sealed",
]
