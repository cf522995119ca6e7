"""``llds memory``: the memory that a training needs on each GPU, before one is rented."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from llds.cli.arguments import ArgumentParser
from llds.errors import ConfigurationError

if TYPE_CHECKING:
    from llds.strategies.memory import Setting

_USAGE = "llds memory MODEL [MODEL ...] [--gpus N] [--strategy zero3|ddp] [--KEY VALUE ...]"
_DESCRIPTION = """\
Estimate the memory that a training needs on each GPU, by component, from a model's config.json; no weights are read.
In GiB, for bf16 weights, AdamW with fp32 states and gradient checkpointing. An estimate: what the allocator wastes and
what libraries keep is left out, and no figure was measured on a GPU."""
_EXAMPLES = """
examples:
  llds memory models/Qwen2.5-7B --gpus 8
  llds memory 3B 7B 32B --gpus 32 --offload_optimizer   # the shapes of Qwen2.5
"""
_GIB = 2**30
_NUMBERS = {
    "gpus": (8, "GPUs that train, over all machines"),
    "rows": (8, "trajectories of a micro-batch"),
    "tokens": (4096, "tokens of the longest trajectory, prompt included"),
    "sampled": (64, "trajectories that an engine samples at once"),
    "tensor_parallel": (1, "GPUs of an engine that samples"),
    "card": (80, "GB of one GPU, to say what does not fit"),
}
_RESERVE = 0.05  # of a card: what the allocator wastes and libraries keep


def memory(args: Sequence[str]) -> None:
    """Print a table, one row per model.

    Args:
        args: Arguments after ``memory``.

    Raises:
        ConfigurationError: A number or a model cannot be.
    """
    parser = _parser()
    options = parser.parse_args(list(args))
    for name, least in {**dict.fromkeys(_NUMBERS, 1), "lora_rank": 0}.items():
        if getattr(options, name) < least:
            raise ConfigurationError(f"Expected `--{name}` >= {least}, got {getattr(options, name)}.")
    from llds.strategies.memory import Setting

    numbers = {name: getattr(options, name) for name in _NUMBERS if name != "card"}
    setting = Setting(
        strategy=options.strategy,
        offload_optimizer=options.offload_optimizer,
        has_reference=not options.no_reference,
        lora_rank=options.lora_rank,
        shares_gpus=options.shared_gpus,
        **numbers,
    )
    console = Console(highlight=False)
    console.print(_table(options.models, setting), soft_wrap=not console.is_terminal)
    for line in _too_large(options.models, setting, options.card):
        console.print(line, soft_wrap=True)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(_USAGE, _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="model folder, name on the hub, or 3B, 7B, 32B for Qwen2.5's shapes"
    )
    for name, (default, text) in _NUMBERS.items():
        parser.add_argument(f"--{name}", metavar="N", type=int, default=default, help=f"{text} (default: {default})")
    parser.add_argument(
        "--strategy",
        choices=["zero3", "ddp"],
        default="zero3",
        help="zero3 divides weights, gradients and optimizer states by the GPUs, ddp does not (default: zero3)",
    )
    parser.add_argument("--offload_optimizer", action="store_true", help="optimizer states are in main memory")
    parser.add_argument(
        "--lora_rank", metavar="N", type=int, default=0, help="adapters of this rank are trained, the model is frozen"
    )
    parser.add_argument(
        "--shared_gpus", action="store_true", help="engines sleep on the GPUs that train (llds:rollout/vllm_gpu_shared)"
    )
    parser.add_argument("--no_reference", action="store_true", help="no KL penalty, or adapters (`model.lora`)")
    return parser


def _table(models: Sequence[str], setting: "Setting") -> Table:
    """A row per component, a column per model."""
    from llds.strategies.memory import engine, load, main_memory, parameters, peak, trainer

    columns = []
    for config in map(load, models):
        needs, sampling = trainer(config, setting), engine(config, setting)
        bytes_of = needs | {
            "a GPU that trains, at most": peak(needs),
            "a GPU of an engine": sum(sampling.values()),
            "main memory, all machines": main_memory(config, setting),
        }
        figures = {name: f"{value / _GIB:.1f}" for name, value in bytes_of.items()}
        columns.append({"parameters": f"{parameters(config) / 1e9:.2f}B"} | figures)
    batch = f"micro-batches of {setting.rows} x {setting.tokens:,} tokens"
    title = f"GiB, {setting.strategy} on {setting.gpus} GPUs, {batch}"
    table = Table("", title=title, box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for name in models:
        table.add_column(Path(name).name, justify="right")
    for row in columns[0]:
        table.add_row(row, *(column[row] for column in columns), style="bold" if row.startswith("a GPU") else None)
    return table


def _too_large(models: Sequence[str], setting: "Setting", card_gb: int) -> list[str]:
    """A sentence for each model that does not fit a card, to train or to sample, with what to change."""
    from llds.strategies.memory import engine, load, peak, trainer

    lines, room = [], (1 - _RESERVE) * card_gb
    for name in models:
        config = load(name)
        training = "smaller --rows, then --offload_optimizer, --lora_rank, more --gpus (docs/scale.md)"
        for what, needs, advice in (
            ("", peak(trainer(config, setting)), training),
            ("'s engine", sum(engine(config, setting).values()), "more --tensor_parallel, or fewer --sampled"),
        ):
            if needs / _GIB > room:
                lines.append(
                    f"{Path(name).name}{what} does not fit {card_gb} GB ({needs / _GIB:.0f} GiB of about {room:.0f}): "
                    f"{advice}."
                )
    return lines
