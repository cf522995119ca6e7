"""Memory that training needs on each GPU, and on each machine, estimated from a model's config.json.

An estimate: it leaves out what the allocator wastes and what libraries keep. Near the size of a card is too large. Its
parts are compared with bytes that were measured on small models on the CPU, and with what ZeRO-3 keeps on two ranks; no
figure was measured on a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig, Qwen2Config

from llds.errors import ConfigurationError
from llds.files import FROM_FOLDER, errors_of_folder, model_folder

_QWEN = {  # config.json of Qwen2.5: hidden, feed-forward, layers, heads, key-value heads, tied, vocabulary
    "3B": (2048, 11008, 36, 16, 2, True, 151_936),
    "7B": (3584, 18944, 28, 28, 4, False, 152_064),
    "32B": (5120, 27648, 64, 40, 8, False, 152_064),
}
_READ = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip


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
        lora_rank: Width of the adapters that are trained in place of the model, which then stays frozen; 0: none.
        shares_gpus: Whether engines have their GPUs with the trainer: weights go by CUDA IPC, and engines sleep.
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
    lora_rank: int = 0
    shares_gpus: bool = False


IPC_BUFFER_BYTES = 256 * 2**20
"""Of one message of weights, where no tensor is larger (`llds.samplers.vllm.engine`)."""

SLEEPING_BYTES = 2.5 * 2**30
"""What a vLLM server keeps of a GPU while it sleeps: its CUDA context, graphs and NCCL; 1 to 2.5 GiB by its makers."""


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


def adapter_parameters(config: PreTrainedConfig, rank: int) -> int:
    """Parameters of adapters on all linear maps of the layers: rank x (in + out) for each."""
    hidden, kv, wide = config.hidden_size, key_value_width(config), config.intermediate_size
    query = config.num_attention_heads * head_size(config)
    return config.num_hidden_layers * rank * (2 * (hidden + query) + 2 * (hidden + kv) + 3 * (hidden + wide))


def trained_parameters(config: PreTrainedConfig, setting: Setting) -> int:
    """Parameters that the optimizer moves."""
    return adapter_parameters(config, setting.lora_rank) if setting.lora_rank else parameters(config)


def states(config: PreTrainedConfig, setting: Setting) -> dict[str, float]:
    """Bytes per GPU that stay: policy, gradients, optimizer (fp32 copy and two moments), reference."""
    count, share = parameters(config), setting.gpus if setting.strategy == "zero3" else 1
    moved = trained_parameters(config, setting)
    # Under DDP weights are fp32, and autocast copies them; DeepSpeed keeps an fp32 copy for the optimizer, of fp32 too.
    width, optimizer = (4, 8.0) if setting.strategy == "ddp" else (setting.weight_bytes, 12.0)
    if setting.lora_rank:  # a frozen model may have the dtype in which it computes (`model.dtype`)
        policy, reference = setting.weight_bytes * count + width * moved, 0
    else:
        policy, reference = width * count, width * count
    own: dict[str, float] = {"policy": policy, "gradients": 4 * moved}  # added up in fp32
    own["optimizer"] = 0.0 if setting.offload_optimizer else optimizer * moved
    own["reference"] = reference if setting.has_reference else 0.0
    return {name: value / share for name, value in own.items()}


def step(config: PreTrainedConfig, setting: Setting) -> float:
    """Bytes of the optimizer's step on a GPU: under ZeRO-3 a copy of the fp32 gradient, at most 1e9 at a time.

    The fused AdamW makes no others; torch's foreach would add as many again.
    """
    if setting.strategy == "ddp" or setting.offload_optimizer:
        return 0.0
    return 4.0 * min(trained_parameters(config, setting) / setting.gpus, 1e9)


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
    if setting.lora_rank:
        return 0.0
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
    found["step"] = step(config, setting)
    if setting.shares_gpus:
        found["IPC buffer"] = float(max(IPC_BUFFER_BYTES, 2 * config.vocab_size * config.hidden_size))
        found["sleeping engine"] = SLEEPING_BYTES
    return found


def peak(found: Mapping[str, float]) -> float:
    """Bytes per GPU at the worst moment, from the parts that `trainer` found: what is needed one after the other once.

    A backward pass has activations, whole parameters and the head's gradient; then comes the step; then, to send the
    weights, the buffer.
    """
    passing = ("gathered", "head gradient", "activations")
    moments = (sum(found[name] for name in passing), found["step"], found.get("IPC buffer", 0.0))
    return sum(found.values()) - sum(moments) + max(moments)


def main_memory(config: PreTrainedConfig, setting: Setting) -> float:
    """Bytes of main memory over all machines for optimizer states that are offloaded, with the fp32 gradient."""
    return 16.0 * trained_parameters(config, setting) if setting.offload_optimizer else 0.0


def engine(config: PreTrainedConfig, setting: Setting) -> dict[str, float]:
    """Bytes of each GPU of an engine: weights in bf16, keys and values."""
    return {
        "weights": 2.0 * parameters(config) / setting.tensor_parallel,
        "keys and values": key_value_cache(config, setting.sampled, setting.tokens) / setting.tensor_parallel,
    }


def load(name: str) -> PreTrainedConfig:
    """The configuration of a folder, or of a Qwen2.5 by its size.

    Args:
        name: Folder with a config.json, a name on the hub, or 3B, 7B, 32B.

    Raises:
        ConfigurationError: It is neither, or the model is no decoder of the kind that `parameters` counts.
    """
    if name not in _QWEN:
        return _load_folder(model_folder(name, "MODEL", is_config_enough=True))
    hidden, wide, layers, heads, kv, tied, vocabulary = _QWEN[name]
    return Qwen2Config(
        hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, tie_word_embeddings=tied, vocab_size=vocabulary,
    )  # fmt: skip


def _load_folder(folder: Path) -> PreTrainedConfig:
    expected = "Expected the folder of a model with a config.json, or 3B, 7B or 32B for the shapes of Qwen2.5, got"
    if not (folder / "config.json").is_file():
        raise ConfigurationError(f"{expected} {folder}, which has none. Check the path.")
    with errors_of_folder(expected, folder, "Check the file."):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, **FROM_FOLDER).get_text_config()
    missing = [name for name in _READ if not getattr(config, name, None)]
    experts = [name for name in ("num_experts", "num_local_experts", "n_routed_experts") if getattr(config, name, None)]
    if missing or experts:
        why = f"without {', '.join(missing)}" if missing else f"with experts (`{experts[0]}`)"
        raise ConfigurationError(
            f"Expected a dense decoder with a gated feed-forward (Llama, Qwen2, Qwen3, Mistral), got {folder}: a "
            f"{config.model_type} {why}, which the estimate cannot count."
        )
    return config
