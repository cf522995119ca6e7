"""Write question files of any format as one normal form: checked, filtered, mixed, without repeated questions.

    python tools/prepare_data.py --train train.parquet --test test.jsonl --output data/mine
    python tools/prepare_data.py -c sources.yaml --drop_duplicates true --output data/mine

``train``, ``validation`` and ``test`` take what ``data.train`` of a training takes: a file, ``{path: FILE, limit: 1000,
answers_in: corpus.jsonl, ...}``, or a list of them (docs/data.md). With weights, the training set is the largest
mixture that repeats no question, or ``--size`` questions. Writes ``train.jsonl``, ``validation.jsonl`` and
``test.jsonl`` with ``id``, ``question``, ``golden_answers``, ``data_source`` and ``metadata``, and a ``manifest.json``
that names sources, counts, repeated questions and checksums. All files appear together at the end, or none does.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llds.cli.config.parser import ConfigurationParser, errors_of_constructors
from llds.data import DataSource, SourceQuestions, read_source
from llds.data.columns import find_optional_column
from llds.data.duplicates import have_other_answers, overlap, repeats
from llds.data.mixture import shares
from llds.data.source_reader import check_unique, questions_hash
from llds.errors import ConfigurationError, DataError, LLDSError
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


def main(args: list[str] | None = None) -> None:
    """Read, report and write."""
    parser = ConfigurationParser(
        prog="python tools/prepare_data.py",
        usage="python tools/prepare_data.py [-c FILE] --train FILE --test FILE --output FOLDER [--KEY VALUE ...]",
        description="Write question files as one normal form.",
        parser_mode="omegaconf+",
    )
    parser.add_argument("-c", "--config", action="config", help="Configuration file with the keys below.")
    parser.add_class_arguments(Preparation)
    try:
        settings = parser.parse_args(args)
        with errors_of_constructors():
            values = vars(parser.instantiate(settings))
            preparation = Preparation(**{key: value for key, value in values.items() if key != "config"})
        prepare(preparation, Console(highlight=False, soft_wrap=True))
    except LLDSError as error:
        sys.exit(f"prepare_data: {error}")
    except KeyboardInterrupt:
        sys.exit("prepare_data: interrupted; nothing was written")


def prepare(preparation: Preparation, console: Console) -> None:
    """Do it, and show what was done.

    Args:
        preparation: The settings.
        console: Where it is shown.
    """
    sources = {name: listed(getattr(preparation, name)) for name in ("train", *EVALUATION)}
    check(preparation, sources)
    questions = {name: [read_source(source) for source in parts] for name, parts in sources.items() if parts}
    for line in (line for parts in questions.values() for part in parts for line in part.notes()):
        console.print(line, markup=False)
    prompts = {name: [prompt for part in parts for prompt in part.prompts] for name, parts in questions.items()}
    if "train" in prompts:
        prompts["train"] = mixture(questions["train"], preparation.size)
    for name in prompts:
        prompts[name] = list(check_unique(prompts[name]))
    report = duplicates(prompts)
    if preparation.drop_duplicates:
        prompts = without_duplicates(prompts)
    kept = metadata(prompts, sources, preparation.metadata_fields)
    described = {name: [part.describe() for part in parts] for name, parts in questions.items()}
    write(preparation, prompts, kept, {"sources": described, "duplicates": report})
    show_duplicates(console, report, preparation.drop_duplicates)
    show(console, prompts, preparation)


def listed(sources: Sources) -> list[DataSource]:
    """The sources of one set as a list."""
    items = sources if isinstance(sources, list) else [sources]
    return [DataSource(item) if isinstance(item, str) else item for item in items if item is not None]


def check(preparation: Preparation, sources: Mapping[str, Sequence[DataSource]]) -> None:
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


def mixture(parts: Sequence[SourceQuestions], size: int | None) -> list[Prompt]:
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


def duplicates(prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, dict[str, int]]:
    """How many questions are repeated within each set, and asked by training and an evaluation set."""
    found = {f"within {name}": repeats(prompts[name]) for name in prompts}
    for name in EVALUATION:
        if "train" in prompts and name in prompts:
            found[f"train in {name}"] = overlap(prompts["train"], prompts[name])
    return {
        where: {"questions": len(pairs), "with_other_answers": sum(map(have_other_answers, pairs))}
        for where, pairs in found.items()
    }


def without_duplicates(prompts: Mapping[str, list[Prompt]]) -> dict[str, list[Prompt]]:
    """The sets without repetitions, and training without what the evaluation sets ask."""
    dropped = {name: {id(prompt) for prompt, _ in repeats(prompts[name])} for name in prompts}
    for name in EVALUATION:
        if "train" in prompts and name in prompts:
            dropped["train"] |= {id(prompt) for prompt, _ in overlap(prompts["train"], prompts[name])}
    return {name: [prompt for prompt in prompts[name] if id(prompt) not in dropped[name]] for name in prompts}


def metadata(
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


def write(
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
            text = "".join(normal_form(prompt, kept.get(prompt.origin, {})) for prompt in part)
            files.enter_context(write_atomically(folder / f"{name}.jsonl")).write(text)
            written[f"{name}.jsonl"] = {
                "questions": len(part),
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
                "questions_sha256": questions_hash(part),
                "data_sources": dict(Counter(prompt.data_source for prompt in part)),
            }
        settings = {"size": preparation.size, "drop_duplicates": preparation.drop_duplicates}
        manifest.write(json.dumps({"format": 1, "files": written, **record, "settings": settings}, indent=1) + "\n")


def normal_form(prompt: Prompt, kept: Mapping[str, Any]) -> str:
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


def show(console: Console, prompts: Mapping[str, Sequence[Prompt]], preparation: Preparation) -> None:
    """Show what was written, and which questions are repeated."""
    table = Table("set", "data source", "questions", box=None, header_style="bold")
    for name, part in prompts.items():
        for data_source, count in Counter(prompt.data_source for prompt in part).items():
            table.add_row(name, data_source, f"{count:,}")
        table.add_row(name, "all", f"{len(part):,}", style="bold")
    console.print(table)
    console.print(f"Wrote {', '.join(f'{name}.jsonl' for name in prompts)} and manifest.json to {preparation.output}.")


def show_duplicates(console: Console, report: Mapping[str, Mapping[str, int]], dropped: bool) -> None:
    """Show which questions are repeated, one line for each pair of sets."""
    for where, found in report.items():
        if found["questions"]:
            others = f", {found['with_other_answers']:,} of them with other answers" * (found["with_other_answers"] > 0)
            console.print(f"repeated {where}: {found['questions']:,} questions{others}" + ", dropped" * dropped)
        else:
            console.print(f"repeated {where}: none")


if __name__ == "__main__":
    main()
