"""Question files of any format as one normal form: checked, filtered, mixed, without repeated questions.

All files appear together at the end, or none does. Left out: the command line (`llds.cli.commands.prepare`).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llds.data.columns import find_optional_column
from llds.data.mixture import shares
from llds.data.preparation.duplicates import have_other_answers, overlap, repeats
from llds.data.source import DataSource
from llds.data.source_reader import (
    SourceQuestions,
    check_unique,
    questions_hash,
    raise_together,
    read_sources,
)
from llds.errors import ConfigurationError, DataError
from llds.files import BadRows, read_rows, write_atomically
from llds.types import Prompt

Sources = str | DataSource | list[str | DataSource] | None
EVALUATION = ("validation", "test")


@dataclass
class Preparation:
    """Write question files as one normal form.

    Args:
        output: Folder for the files; it must not hold any yet.
        train: Questions to train on.
        validation: Questions for validation.
        test: Questions for tests.
        size: Number of training questions of a mixture by weight; null is as many as there are without a repetition.
        drop_duplicates: Whether questions that repeat an earlier one of their set, and training questions that
            validation or test ask too, are left out; they are reported anyway.
        metadata_fields: Columns that are kept under ``metadata``, next to file and row.
    """

    output: str = ""
    train: Sources = None
    validation: Sources = None
    test: Sources = None
    size: int | None = None
    drop_duplicates: bool = False
    metadata_fields: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Prepared:
    """What was written.

    Attributes:
        prompts: The questions of each set.
        duplicates: For each pair of sets, how many questions are repeated, and with other answers.
        notes: What was noticed while the sources were read, each in a line.
    """

    prompts: dict[str, list[Prompt]]
    duplicates: dict[str, dict[str, int]]
    notes: list[str]


def prepare_questions(preparation: Preparation) -> Prepared:
    """Read, check, mix and write.

    Args:
        preparation: The settings.

    Raises:
        ConfigurationError: The settings cannot work together.
        DataError: A file, or a row of it, cannot be used.
    """
    sources = {name: _listed(getattr(preparation, name)) for name in ("train", *EVALUATION)}
    _check(preparation, sources)
    questions = _read(sources)
    prompts = {name: [prompt for part in parts for prompt in part.prompts] for name, parts in questions.items()}
    if "train" in prompts:
        prompts["train"] = _mixture(questions["train"], preparation.size)
    for name in prompts:
        repeated = BadRows("error")
        prompts[name] = list(check_unique(prompts[name], repeated))
        repeated.check(f"the files of `{name}` together")
    report = _duplicates(prompts)
    if preparation.drop_duplicates:
        prompts = _without_duplicates(prompts)
    kept = _metadata(prompts, sources, preparation.metadata_fields)
    described = {name: [part.describe() for part in parts] for name, parts in questions.items()}
    _write(preparation, prompts, kept, {"sources": described, "duplicates": report})
    return Prepared(prompts, report, [line for parts in questions.values() for part in parts for line in part.notes()])


def _listed(sources: Sources) -> list[DataSource]:
    """The sources of one set as a list."""
    items = sources if isinstance(sources, list) else [sources]
    return [DataSource(item) if isinstance(item, str) else item for item in items if item is not None]


def _read(sources: Mapping[str, Sequence[DataSource]]) -> dict[str, list[SourceQuestions]]:
    """The questions of each set that has any; all files that cannot be used are named together."""
    questions: dict[str, list[SourceQuestions]] = {}
    refused: list[DataError] = []
    for name, parts in sources.items():
        if parts:
            questions[name], errors = read_sources(parts)
            refused += errors
    raise_together(refused)
    return questions


def _check(preparation: Preparation, sources: Mapping[str, Sequence[DataSource]]) -> None:
    """Refuse settings that cannot work before anything is read."""
    folder = Path(preparation.output)
    if not preparation.output:
        raise ConfigurationError("Expected `--output` to name a folder, got none. Add --output FOLDER.")
    if not any(sources.values()):
        raise ConfigurationError(
            "Expected `--train`, `--validation` or `--test` with questions, got none. Name a file."
        )
    present = [name for name in ("manifest.json", *(f"{name}.jsonl" for name in sources)) if (folder / name).exists()]
    if present:
        raise ConfigurationError(
            f"Expected `--output` to be a new folder, got {folder}, which holds {', '.join(present)}. "
            "Name another folder, or remove the files."
        )
    weighted = {name: sum(source.weight is not None for source in parts) for name, parts in sources.items()}
    if any(weighted[name] for name in EVALUATION) or weighted["train"] not in (0, len(sources["train"])):
        raise ConfigurationError(
            "Expected a `weight` for all sources of `train`, or for none. Add the others, or use `limit`."
        )
    if preparation.size is not None and (preparation.size < 1 or not weighted["train"]):
        raise ConfigurationError(
            f"Expected `--size` to be at least 1 and all sources of `train` to have a `weight`, got {preparation.size} "
            f"and {weighted['train']} weights. Use `limit` for a source without."
        )


def _mixture(parts: Sequence[SourceQuestions], size: int | None) -> list[Prompt]:
    """The training questions: all of them, or of each source as many as its weight asks for."""
    if parts[0].source.weight is None:
        return [prompt for part in parts for prompt in part.prompts]
    weights = [part.source.weight or 0.0 for part in parts]
    counts = [len(part.prompts) for part in parts]
    if size is None:
        size = int(min(count * sum(weights) / weight for count, weight in zip(counts, weights, strict=True)))
        while any(share > count for share, count in zip(shares(size, weights), counts, strict=True)):
            size -= 1  # rounding gave a source one place more than it has questions
    wanted = shares(size, weights)
    for part, share in zip(parts, wanted, strict=True):
        if share > len(part.prompts):
            raise DataError(
                f"Expected {share:,} questions in {part.source.path} for its weight in a mixture of {size:,}, got "
                f"{len(part.prompts):,}. Lower `--size` or the weight."
            )
    return [prompt for part, share in zip(parts, wanted, strict=True) for prompt in part.prompts[:share]]


def _duplicates(prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, dict[str, int]]:
    """How many questions are repeated within each set, and asked by training and an evaluation set."""
    found = {f"within {name}": repeats(prompts[name]) for name in prompts}
    for name in EVALUATION:
        if "train" in prompts and name in prompts:
            found[f"train in {name}"] = overlap(prompts["train"], prompts[name])
    return {
        where: {"questions": len(pairs), "with_other_answers": sum(map(have_other_answers, pairs))}
        for where, pairs in found.items()
    }


def _without_duplicates(prompts: Mapping[str, list[Prompt]]) -> dict[str, list[Prompt]]:
    """The sets without repetitions, and training without what the evaluation sets ask."""
    dropped = {name: {id(prompt) for prompt, _ in repeats(prompts[name])} for name in prompts}
    for name in EVALUATION:
        if "train" in prompts and name in prompts:
            dropped["train"] |= {id(prompt) for prompt, _ in overlap(prompts["train"], prompts[name])}
    return {name: [prompt for prompt in prompts[name] if id(prompt) not in dropped[name]] for name in prompts}


def _metadata(
    prompts: Mapping[str, Sequence[Prompt]], sources: Mapping[str, Sequence[DataSource]], fields: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The columns to keep of each row that is used, by its origin."""
    if not fields:
        return {}
    used = {prompt.origin for part in prompts.values() for prompt in part}
    kept: dict[str, dict[str, Any]] = {}
    for source in (source for parts in sources.values() for source in parts):
        for row in read_rows(source.path, bad_rows=BadRows("skip"), file_format=source.format):
            if row.origin in used:
                found = {name: find_optional_column(row, None, "metadata_fields", (name,)) for name in fields}
                kept[row.origin] = {name: value for name, (value, column) in found.items() if column}
    missing = [name for name in fields if not any(name in values for values in kept.values())]
    if missing:
        raise DataError(
            f"Expected columns {', '.join(missing)} (`--metadata_fields`) in the sources, got no such column."
        )
    return kept


def _write(
    preparation: Preparation,
    prompts: Mapping[str, Sequence[Prompt]],
    kept: Mapping[str, Mapping[str, Any]],
    record: Mapping[str, Any],
) -> None:
    """Write all files; they take their names together, the manifest last."""
    folder, written = Path(preparation.output), {}
    with ExitStack() as files:
        manifest = files.enter_context(write_atomically(folder / "manifest.json"))  # entered first, it is closed last
        for name, part in prompts.items():
            text = "".join(_normal_form(prompt, kept.get(prompt.origin, {})) for prompt in part)
            files.enter_context(write_atomically(folder / f"{name}.jsonl")).write(text)
            written[f"{name}.jsonl"] = {
                "questions": len(part),
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
                "questions_sha256": questions_hash(part),
                "data_sources": dict(Counter(prompt.data_source for prompt in part)),
            }
        settings = {"size": preparation.size, "drop_duplicates": preparation.drop_duplicates}
        manifest.write(json.dumps({"format": 1, "files": written, **record, "settings": settings}, indent=1) + "\n")


def _normal_form(prompt: Prompt, kept: Mapping[str, Any]) -> str:
    """A line of a file."""
    file, _, row = prompt.origin.rpartition(":")
    values = {
        "id": prompt.prompt_id,
        "question": prompt.question,
        "golden_answers": prompt.golden_answers,
        "data_source": prompt.data_source,
        "metadata": {"file": Path(file).name, "row": int(row), **kept},
    }
    return json.dumps(values, ensure_ascii=False, default=str) + "\n"
