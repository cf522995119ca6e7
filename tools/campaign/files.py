"""Hostile files: damaged, endless, enormous, of another kind. Each is read, or refused in one sentence, at small cost.

Data, corpora, configurations, logs of metrics, trajectories and checkpoints, made from whole ones by damage at random,
and some that were made on purpose.
"""

import gzip
import io
import json
import os
import pickle
import random
import re
import resource
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from llds.cli.commands.diagnose.judged import read_diagnosed
from llds.cli.config.file import read_config_file
from llds.cli.training.checkpoint_path import check_checkpoint
from llds.data import DataSource
from llds.data.source_reader import read_prompts
from llds.errors import LLDSError
from llds.report import read_run
from llds.report.run import read_trajectories
from llds.retrieval.corpus import check_corpus
from tools.campaign.table import Outcome

MOST_S, MOST_MB = 20.0, 1500
Read = Callable[[Path], Any]
_ROW = {"question": "Who?", "golden_answers": ["a", "b"], "id": "q1"}
_PASSAGE = {"id": "1", "contents": '"Paris"\nParis is the capital of France.'}
_YAML = Path("conf/quickstart.yaml")


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"question": ["Who?"] * 20, "golden_answers": [["a"]] * 20}), buffer)
    return buffer.getvalue()


def _checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"w": torch.arange(50.0)}, "search_agent": {"iteration": 1}, "x": [1, "a", None]}, buffer)
    return buffer.getvalue()


def _questions(path: Path) -> Any:
    return read_prompts(DataSource(str(path)))


def _log(path: Path) -> Any:
    return read_diagnosed(str(path), 5), read_run(path)


def _lines(row: dict[str, Any], count: int = 30) -> bytes:
    return "".join(json.dumps(row | {"id": str(number)}) + "\n" for number in range(count)).encode()


def _metrics() -> bytes:
    rows = "".join(f"{number},0.{number:02d},{1 / (number + 1)}\n" for number in range(40))
    return f"iteration,reward/mean,train/loss\n{rows}".encode()


WHOLE: dict[str, tuple[str, Callable[[], bytes], Read]] = {
    "questions": ("questions.jsonl", lambda: _lines(_ROW), _questions),
    "questions, csv": ("questions.csv", lambda: b"question,answer\n" + b"Who?,a\n" * 30, _questions),
    "questions, parquet": ("questions.parquet", _parquet, _questions),
    "questions, gzip": ("questions.jsonl.gz", lambda: gzip.compress(_lines(_ROW)), _questions),
    "corpus": ("corpus.jsonl", lambda: _lines(_PASSAGE), check_corpus),
    "configuration": ("config.yaml", _YAML.read_bytes, lambda path: read_config_file(str(path))),
    "log": ("metrics.csv", _metrics, _log),
    "log, jsonl": ("metrics.jsonl", lambda: _lines({"step": 1, "reward": 0.5}), _log),
    "log, console": ("train.log", lambda: b"step:1 - critic/score/mean:0.5 - actor/loss:nan\n" * 30, _log),
    "trajectories": ("iteration-1.jsonl.gz", lambda: gzip.compress(_lines({"prompt": "x"})), read_trajectories),
    "checkpoint": ("iteration-000001.ckpt", _checkpoint, check_checkpoint),
}
"""Name of the file, what is in a whole one, and who reads it."""


def _deep(count: int = 200_000) -> bytes:
    return b"[" * count + b"]" * count


def _bomb() -> bytes:
    return gzip.compress(b'{"question": "' + b"x" * (64 << 20) + b'"}\n')


def _aliases() -> bytes:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    return "\n".join(rows).encode()


class _Run:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


MADE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "zeros": lambda: bytes(100_000),
    "noise": lambda: random.Random(0).randbytes(100_000),  # noqa: S311
    "lists in lists": _deep,
    "objects in objects": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of 10,000 digits": lambda: b'{"question": ' + b"9" * 10_000 + b"}\n",
    "an endless line": lambda: b"x" * (8 << 20),
    "a million columns": lambda: b"a," * 1_000_000 + b"b\n" + b"1," * 1_000_000 + b"2\n",
    "a bomb of gzip": _bomb,
    "a bomb of aliases": _aliases,
    "UTF-16": lambda: '{"question": "Who?", "answer": "a"}\n'.encode("utf-16"),
    "half a surrogate": lambda: b'{"question": "\\ud800", "golden_answers": ["\\udfff"]}\n',
    "a pickle that runs code": lambda: pickle.dumps(_Run()),
    "NaN and infinity": lambda: b'{"question": NaN, "golden_answers": [Infinity], "step": -Infinity, "reward": NaN}\n',
    "a tag that runs code": lambda: b"a: !!python/object/apply:os.system ['true']\n",
    "a link of OmegaConf to itself": lambda: b"a: ${b}\nb: ${a}\n",
}


def tries(draw: random.Random, folder: Path) -> Iterator[Outcome]:
    """What was made on purpose, for every reader, and damage at random, for ever."""
    made = [(case, what) for case in WHOLE for what in (*MADE, "a pipe")]
    draw.shuffle(made)
    for case, what in made:
        name, _, read = WHOLE[case]
        path = folder / name
        note = _pipe(path.with_suffix(".pipe"), read) if what == "a pipe" else _try(path, MADE[what](), read)
        yield Outcome(f"{case}: made on purpose", f"{what}: {note}" if note else "")
        yield _damaged(case, folder, draw)
    while True:
        yield _damaged(draw.choice(list(WHOLE)), folder, draw)


def _damaged(case: str, folder: Path, draw: random.Random) -> Outcome:
    name, make, read = WHOLE[case]
    damaged = _damaged_pickle(make(), draw) if case == "checkpoint" else _damage(make(), draw)
    return Outcome(f"{case}: damaged at random", _try(folder / name, damaged, read))


def _damage(content: bytes, draw: random.Random) -> bytes:
    """A few changes: bytes flipped, taken out, put in, doubled, or put where others were."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        at, length = draw.randrange(len(changed) + 1), draw.choice([1, 2, 7, 50, 300])
        kind = draw.randrange(5)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = draw.choice(
                [b"\x00", b'"', b"{", b"]", b",", b"\n", b"\xff\xfe", b"9" * 400, b"*a", b"${x}"]
            )
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        else:
            changed[at : at + length] = draw.randbytes(length)
    return bytes(changed)


def _damaged_pickle(content: bytes, draw: random.Random) -> bytes:
    """A checkpoint whose archive is whole and whose pickle is not."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for one in old.infolist():
            data = old.read(one)
            new.writestr(one.filename, _damage(data, draw) if one.filename.endswith("data.pkl") else data)
    return buffer.getvalue()


def _try(path: Path, content: bytes, read: Read) -> str:
    """Read a file; returns what is wrong with how that went."""
    path.write_bytes(content)
    before, started = _memory_mb(), time.process_time()
    try:
        read(path)
    except LLDSError as error:
        if not re.match(r"(\S+: )?Expected ", str(error)):  # some begin with the file
            return f"no sentence of ours: {str(error)[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    seconds, memory = time.process_time() - started, _memory_mb() - before
    if seconds > MOST_S or memory > MOST_MB:
        return f"{seconds:.0f} s and {memory:.0f} MB"
    return ""


def _pipe(path: Path, read: Read) -> str:
    """A pipe that nobody writes to, in the place of a file."""
    with suppress(FileExistsError):
        os.mkfifo(path)
    try:
        read(path)
    except LLDSError:
        return ""
    except Exception as error:
        return f"a pipe: {type(error).__name__}: {error}"
    return "a pipe is read"


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
