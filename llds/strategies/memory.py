"""Memory that training needs on each GPU, and on each machine, estimated from a model's config.json.

    python tools/memory_estimate.py models/Qwen2.5-7B --gpus 8
    python tools/memory_estimate.py 3B 7B 32B --gpus 8 --strategy zero3   # the shapes of Qwen2.5

An estimate: it leaves out what the allocator wastes and what libraries keep. The formulas stand in the functions below;
tests/unit/tools/test_memory_estimate.py compares them with bytes that were measured on small models on the CPU, and
tests/integration/test_two_ranks.py with what ZeRO-3 keeps. No figure was measured on a GPU.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, PreTrainedConfig, Qwen2Config

GIB = 2**30

_QWEN = {  # config.json of Qwen2.5: hidden, feed-forward, layers, heads, key-value heads, tied, vocabulary
    "3B": (2048, 11008, 36, 16, 2, True, 151_936),
    "7B": (3584, 18944, 28, 28, 4, False, 152_064),
    "32B": (5120, 27648, 64, 40, 8, False, 152_064),
}


@dataclass(frozen=True)
class Setting:
    """How a model is trained.

    Attributes:
        gpus: Number of GPUs, over all machines.
        strategy: ``zero3`` divides weights, gradients and optimizer states by the GPUs; ``ddp`` does not.
        offload_optimizer: Whether optimizer states are in main memory.
        has_reference: Whether there is a reference policy (a KL penalty) that is not the model without its adapters.
        rows: Trajectories of a micro-batch.
        tokens: Of the longest trajectory.
        weight_bytes: Of a weight in forward and backward: 2 for bf16, 4 for fp32.
        sampled: Trajectories that an engine samples at once.
        tensor_parallel: GPUs of an engine.
    """

    gpus: int = 8
    strategy: str = "zero3"
    offload_optimizer: bool = False
    has_reference: bool = True
    rows: int = 8
    tokens: int = 4096
    weight_bytes: int = 2
    sampled: int = 64
    tensor_parallel: int = 1


def parameters(config: PreTrainedConfig) -> int:
    """Parameters of a decoder with grouped attention and a gated feed-forward (Llama, Qwen2, Mistral).

    A layer: queries and outputs of hidden x hidden, keys and values of hidden x kv, three maps of hidden x
    feed-forward, two norms; Qwen2 has biases on queries, keys and values.
    """
    hidden, kv = config.hidden_size, key_value_width(config)
    query = config.num_attention_heads * head_size(config)
    biases = query + 2 * kv if config.model_type == "qwen2" else 0
    layer = 2 * hidden * query + 2 * hidden * kv + biases + 3 * hidden * config.intermediate_size + 2 * hidden
    embeddings = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    return config.num_hidden_layers * layer + embeddings + hidden


def head_size(config: PreTrainedConfig) -> int:
    """Width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def key_value_width(config: PreTrainedConfig) -> int:
    """Width of all keys (or values) of a token in one layer."""
    return (config.num_key_value_heads or config.num_attention_heads) * head_size(config)


def gathered(config: PreTrainedConfig, setting: Setting) -> float:
    """Bytes of whole parameters and of gradients under way on a GPU, at one moment, under ZeRO-3.

    DeepSpeed keeps up to 1e9 parameters whole that are needed again soon, and two buckets of 5e8 gradients
    (`stage3_max_live_parameters`, `reduce_bucket_size`); but never more than there are.
    """
    count = parameters(config)
    return 0.0 if setting.strategy == "ddp" else float(setting.weight_bytes * 2 * min(count, 1_000_000_000))


def states(config: PreTrainedConfig, setting: Setting) -> dict[str, float]:
    """Bytes per GPU that stay: policy, gradients, optimizer (fp32 copy and two moments), reference."""
    count, share = parameters(config), setting.gpus if setting.strategy == "zero3" else 1
    # Under DDP weights are fp32, and autocast copies them; DeepSpeed keeps an fp32 copy for the optimizer, of fp32 too.
    width, optimizer = (4, 8.0) if setting.strategy == "ddp" else (setting.weight_bytes, 12.0)
    own = {"policy": width * count, "gradients": width * count}
    own["optimizer"] = 0.0 if setting.offload_optimizer else optimizer * count
    reference = width * count
    own["reference"] = reference if setting.has_reference else 0.0
    return {name: value / share for name, value in own.items()}


def activations(config: PreTrainedConfig, setting: Setting) -> float:
    """Bytes of activations with gradient checkpointing: each layer's input, and one layer computed again.

    That layer keeps about 8 tensors as wide as the hidden states, keys and values, and 4 as wide as the feed-forward.
    The vocabulary enters with two tiles of logits (`llds.losses.log_probs`), never as a whole.
    """
    tokens, width = setting.rows * setting.tokens, config.hidden_size
    kept = config.num_hidden_layers * width
    one_layer = 8 * width + 2 * key_value_width(config) + 4 * config.intermediate_size
    tiles = 2 * 1024 * 4096 * 4 + 4.0 * 2 * tokens * width  # and hidden states of actions in fp32
    return setting.weight_bytes * tokens * (kept + one_layer) + tiles


def head_gradient(config: PreTrainedConfig, setting: Setting) -> float:
    """Bytes of the head's own gradient, whole on every GPU for the moment in which it arises."""
    return float(setting.weight_bytes * config.vocab_size * config.hidden_size)


def key_value_cache(config: PreTrainedConfig, sampled: int, tokens: int, element_bytes: int = 2) -> float:
    """Bytes of keys and values of so many trajectories: two tensors of a layer for every token."""
    return 2.0 * element_bytes * config.num_hidden_layers * key_value_width(config) * sampled * tokens


def trainer(config: PreTrainedConfig, setting: Setting) -> dict[str, float]:
    """Bytes per GPU that trains, by component."""
    found = states(config, setting)
    found["gathered"] = gathered(config, setting)
    found["head gradient"] = head_gradient(config, setting)
    found["activations"] = activations(config, setting)
    return found


def main_memory(config: PreTrainedConfig, setting: Setting) -> float:
    """Bytes of main memory over all machines for optimizer states that are offloaded, with the fp32 gradient."""
    return 16.0 * parameters(config) if setting.offload_optimizer else 0.0


def engine(config: PreTrainedConfig, setting: Setting) -> dict[str, float]:
    """Bytes of each GPU of an engine: weights in bf16, keys and values."""
    return {
        "weights": 2.0 * parameters(config) / setting.tensor_parallel,
        "keys and values": key_value_cache(config, setting.sampled, setting.tokens) / setting.tensor_parallel,
    }


def load(name: str) -> PreTrainedConfig:
    """The configuration of a folder, or of a Qwen2.5 by its size."""
    if name not in _QWEN:
        return AutoConfig.from_pretrained(name, local_files_only=True).get_text_config()
    hidden, wide, layers, heads, kv, tied, vocabulary = _QWEN[name]
    return Qwen2Config(
        hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, tie_word_embeddings=tied, vocab_size=vocabulary,
    )  # fmt: skip


def main() -> None:
    """Print a table, one row per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="model folders, or 3B, 7B, 32B for Qwen2.5's shapes")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--strategy", choices=["zero3", "ddp"], default="zero3")
    parser.add_argument("--offload-optimizer", action="store_true")
    parser.add_argument("--no-reference", action="store_true", help="no KL penalty, or adapters")
    parser.add_argument("--rows", type=int, default=8, help="trajectories of a micro-batch")
    parser.add_argument("--tokens", type=int, default=4096, help="of the longest trajectory")
    parser.add_argument("--sampled", type=int, default=64, help="trajectories that an engine samples at once")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs of an engine")
    options = parser.parse_args()
    setting = Setting(
        options.gpus, options.strategy, options.offload_optimizer, not options.no_reference, options.rows,
        options.tokens, sampled=options.sampled,
        tensor_parallel=options.tensor_parallel,
    )  # fmt: skip
    table = Table(
        title=f"GiB, {setting.strategy} on {setting.gpus} GPUs, micro-batch {setting.rows} x {setting.tokens}"
    )
    configs = {Path(name).name: load(name) for name in options.models}
    components = list(trainer(next(iter(configs.values())), setting))
    for heading in ("model", "parameters", *components, "a trainer GPU", "an engine GPU", "main memory, all"):
        table.add_column(heading, justify="right")
    for name, config in configs.items():
        needs, sampling = trainer(config, setting), engine(config, setting)
        figures = [*needs.values(), sum(needs.values()), sum(sampling.values()), main_memory(config, setting)]
        table.add_row(name, f"{parameters(config) / 1e9:.2f}B", *(f"{value / GIB:.1f}" for value in figures))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
