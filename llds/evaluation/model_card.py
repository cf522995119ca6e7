"""The model card of an exported policy: ``README.md`` in its folder, made of what its run's folder holds.

What it is made of and how, what was measured of exactly these weights, and what the detector saw while it trained. Its
head is what a hub reads; `Exported` can be read back from it, so that the card can be made again after an evaluation.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import llds
from llds.errors import DataError
from llds.evaluation.markdown import markdown_table
from llds.evaluation.record import EvaluationRecord, list_records, read_record
from llds.evaluation.settings import flatten, read_config, run_settings
from llds.evaluation.summary import summarize
from llds.files import redacted
from llds.monitor import Settings, diagnose, give_verdict, read_metrics
from llds.monitor import summarize as sum_up
from llds.paths import PACKAGE_PREFIX, resolve_path

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD = "README.md"
GENERATED = "<!-- llds writes this card anew when it is pushed; delete this line to keep a text of yours -->"
_PARTS = ("model", "data", "rollout", "retrieval", "collapse")
_RECIPE = {
    "learning rate": "model.init_args.optimization.learning_rate",
    "policy loss": "model.init_args.policy_loss.class_path",
    "LLDS: lambda": "model.init_args.llds_penalty.init_args.coefficient",
    "LLDS: gate": "model.init_args.llds_penalty.init_args.gate",
    "LLDS: preserved": "model.init_args.llds_penalty.init_args.preserve",
    "KL to the reference: coefficient": "model.init_args.kl_penalty.init_args.coefficient",
    "prompts an iteration": "data.init_args.batch_size",
    "trajectories a prompt": "rollout.group_size",
    "prompts an optimizer step": "model.init_args.optimization.mini_batch_size",
    "protocol": "model.init_args.protocol.class_path",
    "retriever": "retrieval.retriever.class_path",
    "reward": "rollout.reward.class_path",
}
"""Rows of the short table, and the keys that they are read from; what is not set has no row."""
_BASE = "model.init_args.policy"
_COMMIT = re.compile(r"@[0-9a-f]{40}$")
_ABSOLUTE = re.compile(r"^(?:/|~/).*/(?=[^/]+/?$)")


@dataclass(frozen=True)
class Exported:
    """Which weights a card is about.

    Attributes:
        iteration: Of the training; None where it is not known.
        weights_sha256: Their hash, as evaluations record it.
    """

    iteration: int | None
    weights_sha256: str


def write_model_card(folder: Path, run: Path, base: str, exported: Exported) -> None:
    """Write the card into an exported folder.

    Args:
        folder: Of the model.
        run: The folder of its run.
        base: What it was trained from: a folder, ``llds:...``, or ``OWNER/NAME@COMMIT`` on the hub.
        exported: What was exported.

    Raises:
        OSError: If it cannot be written.
    """
    text = make_model_card(run, base, exported)
    (folder / CARD).write_text(text, encoding="utf-8", errors="backslashreplace")


def renew_model_card(folder: Path, run: Path) -> bool:
    """Make the card of an exported folder anew, with evaluations that came since; True if it was.

    A card that somebody has made theirs (without `GENERATED`), or that names no weights, stays as it is.

    Args:
        folder: Of the model.
        run: The folder of its run.

    Raises:
        OSError: If the card cannot be read or written.
    """
    path = folder / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if GENERATED not in text:
        return False
    try:
        about = yaml.safe_load(text.split("---\n")[1])["llds"]
        exported = Exported(about["iteration"], about["weights_sha256"])
        base = flatten(read_config(run)).get(_BASE, about["base"])
    except (yaml.YAMLError, IndexError, KeyError, TypeError):
        return False
    write_model_card(folder, run, base, exported)
    return True


def make_model_card(run: Path, base: str, exported: Exported) -> str:
    """The text of the card; arguments as of `write_model_card`."""
    config = redacted(read_config(run))
    measured = _evaluations(run, exported.weights_sha256)
    name, license_id = run.resolve().name, _license(base)
    sections = [
        f"# {name}",
        GENERATED,
        _opening(base, exported),
        f"## How it was trained\n\n{_recipe(config)}",
        f"## What was measured\n\n{_measured(measured)}",
        f"## What the collapse detector saw\n\n{_alarms(run, config, exported.iteration)}",
        f"## Use\n\n{_USE}",
        f"## License\n\n{license_id or 'That of the base model; its folder names none.'}",
    ]
    head = _head(name, base, exported, measured, license_id).to_yaml()
    return f"---\n{head}\n---\n\n" + "\n\n".join(sections) + "\n"


_USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER_OR_NAME")
tokenizer = AutoTokenizer.from_pretrained("FOLDER_OR_NAME")
```

It is an agent: without its prompt and its tools it answers badly. llds brings both, from a configuration with the
settings above: `llds predict -c CONFIG --model.policy FOLDER_OR_NAME --question "..."`."""


def _head(
    name: str, base: str, exported: Exported, measured: Sequence[EvaluationRecord], license_id: str | None
) -> "ModelCardData":
    from huggingface_hub import EvalResult, ModelCardData  # imported here: it takes a third of a second

    results = [
        EvalResult(
            task_type="question-answering", dataset_type=source.name, dataset_name=source.name,
            dataset_split=str(record.card.get("stage", "test")), metric_type="exact_match", metric_name="EM",
            metric_value=round(source.exact_match.value, 4),
        )
        for record in measured[-1:]
        for source in summarize(record.questions).sources
    ]  # fmt: skip
    return ModelCardData(
        base_model=base.partition("@")[0] if _is_on_hub(base) else None,
        library_name="transformers",
        license=license_id,
        pipeline_tag="text-generation",
        tags=["llds", "grpo", "search-agent", "reinforcement-learning"],
        model_name=name,
        eval_results=results or None,
        llds={"version": llds.__version__, "base": _public(base)} | asdict(exported),
    )


def _opening(base: str, exported: Exported) -> str:
    shown = f"[{base}](https://huggingface.co/{base.partition('@')[0]})" if _is_on_hub(base) else f"`{_public(base)}`"
    when = "" if exported.iteration is None else f", after {exported.iteration} iterations"
    return (
        f"A policy trained from {shown} with reinforcement learning by llds {llds.__version__}{when}. Its weights have "
        f"the SHA-256 `{exported.weights_sha256}`."
    )


def _recipe(config: Mapping[str, Any]) -> str:
    """A table of what matters most, the seeds, and folded all settings; files by their names only."""
    if not config:
        return "Its run's folder has no config.yaml, so nothing is known."
    flat = flatten(config)
    rows = [(label, flat[key]) for label, key in _RECIPE.items() if flat.get(key) is not None]
    rows += [] if "LLDS: lambda" in dict(rows) else [("LLDS", "off")]
    rows += [("agent tools", ", ".join(_last(tool.get("class_path")) for tool in _tools(config)) or "none")]
    rows += [("seeds that took effect", run_settings(config).seed)]
    table = "".join(f"| {label} | {_last(value)} |\n" for label, value in rows)
    parts = {name: _public(config[name]) for name in _PARTS if name in config}
    text = yaml.safe_dump(parts, sort_keys=False, allow_unicode=True, width=100)
    return (
        f"| setting | value |\n| --- | --- |\n{table}\n<details><summary>Every setting</summary>\n\n"
        f"````yaml\n{text}````\n\n</details>"
    )


def _measured(measured: Sequence[EvaluationRecord]) -> str:
    """A table for each evaluation of exactly these weights, with its conditions."""
    if not measured:
        return "No evaluation of exactly these weights (`llds test`) lies in its run's folder."
    parts = []
    for record in measured:
        card = flatten(record.card)
        files = ", ".join(Path(str(file)).name for file in card.get("created.files") or []) or "unknown"
        conditions = (
            f"`llds {card.get('stage')}` on {files}, temperature {card.get('rollout.sampling.temperature')}, at most "
            f"{card.get('rollout.limits.turns')} turns, {card.get('created.time')}. Shares of 1; intervals are at 95%."
        )
        parts.append(f"{conditions}\n\n{markdown_table('this policy', summarize(record.questions))}".strip())
    return "\n\n".join(parts)


def _alarms(run: Path, config: Mapping[str, Any], iteration: int | None) -> str:
    """The verdict on the training up to an iteration, what it was judged from, and its alarms."""
    try:
        rows = [row for row in read_metrics(run).rows if iteration is None or row[0] <= iteration]
    except DataError:
        rows = []
    if not rows:
        return "Its run's folder has no metrics, so nothing can be said."
    diagnoses = diagnose(rows, settings=Settings.from_config(config))
    verdict, summary = give_verdict(rows, diagnoses), sum_up(diagnoses)
    alarms = "; ".join(f"iterations {first} to {last}" for first, last in summary.alarms) or "none"
    cause = f" Cause: {summary.now.cause.replace('_', ' ')}." if summary.now.cause else ""
    return (
        f"Verdict at the end: {verdict.words}.{cause} Alarms: {alarms}. Iterations {rows[0][0]} to {rows[-1][0]}, "
        f"judged from: {verdict.basis}."
    )


def _evaluations(run: Path, weights_sha256: str) -> list[EvaluationRecord]:
    """Those of exactly these weights; one that is damaged counts as none."""
    found = []
    for path in list_records(run):
        with suppress(DataError):
            record = read_record(path)
            if flatten(record.card).get("policy.weights_sha256") == weights_sha256:
                found.append(record)
    return found


def _license(base: str) -> str | None:
    """Of what it was trained from, in the hub's words, where its folder or the package says it."""
    if base.startswith(PACKAGE_PREFIX):
        return "apache-2.0"
    path = resolve_path(base) / CARD
    if _is_on_hub(base) or not path.is_file():
        return None
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])["license"]
    except (OSError, ValueError, yaml.YAMLError, IndexError, KeyError, TypeError):
        return None
    return str(found)


def _is_on_hub(base: str) -> bool:
    """Whether it is a name with its commit, as a run keeps it; what has none is a folder."""
    return bool(_COMMIT.search(base))


def _tools(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    model = config.get("model") or {}
    tools = (model.get("init_args") or {}).get("agent_tools") or []
    return [tool for tool in tools if isinstance(tool, Mapping)]


def _last(value: Any) -> str:
    """A class by its own name, anything else as it is."""
    text = str(value)
    return text.rpartition(".")[2] if text.startswith("llds.") else text.replace("|", "\\|")


def _public(value: Any) -> Any:
    """The same without the folders that files lie in on this machine."""
    if isinstance(value, Mapping):
        return {name: _public(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_public(one) for one in value]
    return _ABSOLUTE.sub("", value) if isinstance(value, str) else value
