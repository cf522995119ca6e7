"""Is this server one that can sample for this policy? Asked before any weight is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from llds.errors import ConfigurationError, SamplerError
from llds.files import FROM_FOLDER
from llds.samplers.base import SampledPolicy
from llds.samplers.vllm.server.client import ServerClient, ServerLost
from llds.samplers.vllm.weight_update import SharedBuffer

_STRUCTURE = (
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
)
"""What weights cannot change."""

_SAMPLES = (
    "<think> a </think> <search> b </search> <information> c </information> <answer> d </answer>",
    "Who wrote it, and in which year (1984)?  It's \u00e9t\u00e9, \u6771\u4eac!\n\n\tx += 3.14",
)
_WORDS = 64
_KEY = "`rollout.sampler.urls`"


async def check_server(
    server: ServerClient, policy: SampledPolicy, dtype: str, head_dtype: str, shares_memory: bool
) -> None:
    """Refuse a server that cannot sample for the policy.

    Args:
        server: The server.
        policy: What is trained.
        dtype: The data type that its weights should have.
        head_dtype: That of its logits: ``float32``, or ``model``, which is as it likes.
        shares_memory: Whether weights will come through this machine's memory.

    Raises:
        ConfigurationError: Saying what is wrong.
    """
    try:
        found = await server.describe()
        _check_description(server, policy, dtype, found)
        _check_head(server, head_dtype, found)
        samples = [*_SAMPLES, _words(policy.tokenizer)]
        tokens = [await server.tokenize(text) for text in samples]
        if shares_memory:
            await _check_memory(server)
    except ServerLost as error:
        raise ConfigurationError(
            f"Expected a vLLM server at {server.url} ({_KEY}), got: {error}. Start it there, or leave the key empty."
        ) from error
    except SamplerError as error:
        raise ConfigurationError(
            f"Expected the server at {server.url} ({_KEY}) to be one of vLLM that llds can give weights to, got: "
            f"{error}. Start it with `python -m llds.samplers.vllm.server.serve {policy.folder}`."
        ) from error
    ours = [policy.tokenizer.encode(text, add_special_tokens=False) for text in samples]
    if tokens != ours:
        raise ConfigurationError(
            f"Expected {server.name} ({_KEY}) to have the tokenizer of `model.policy` {policy.folder}, got one that "
            "splits a sample text differently. Start it from that folder."
        )


def _words(tokenizer: PreTrainedTokenizerBase) -> str:
    """Tokens from all over the vocabulary as a text, in which another vocabulary shows that has common words alike."""
    stride = max(1, len(tokenizer) // _WORDS)
    return " ".join(str(tokenizer.decode([token])) for token in range(0, len(tokenizer), stride))


def check_placement(devices: Sequence[int], servers: int, transfer: str, policy: SampledPolicy) -> None:
    """Refuse GPUs on which the servers of a run would not work beside those that train.

    Args:
        devices: GPUs of the servers.
        servers: Number of servers.
        transfer: How weights will come.
        policy: Knows the GPUs that train.

    Raises:
        ConfigurationError: Saying which.
    """
    key, training = "`rollout.sampler.devices`", set(policy.devices)
    if not training:
        return
    if servers > 1 and not devices:
        raise ConfigurationError(
            f"Expected {key} to name the GPUs of {servers} servers (`rollout.sampler.servers`), got none: all would "
            "run on the first. Name them."
        )
    if transfer == "nccl" and (not devices or training & set(devices)):
        raise ConfigurationError(
            f"Expected {key} without the GPUs that train {sorted(training)} (`trainer.devices`), because NCCL joins no "
            f"GPU twice, got {list(devices)}. Name others, or set `rollout.sampler.transfer` to ipc to share them."
        )
    if transfer == "ipc" and not (devices and set(devices) <= training):
        raise ConfigurationError(
            f"Expected {key} among the GPUs that train {sorted(training)} (`trainer.devices`), whose memory servers "
            f"read under `rollout.sampler.transfer: ipc`, got {list(devices)}. Name those, or set the transfer to nccl."
        )


def _check_description(server: ServerClient, policy: SampledPolicy, dtype: str, found: Mapping[str, Any]) -> None:
    theirs, ours = found["hf_config"], AutoConfig.from_pretrained(policy.folder, **FROM_FOLDER).to_dict()
    for name in _STRUCTURE:
        if theirs.get(name) != ours.get(name):
            raise ConfigurationError(
                f"Expected {server.name} ({_KEY}) to run the model of `model.policy` {policy.folder}, got another: "
                f"its {name} is {theirs.get(name)}, not {ours.get(name)}. Start it from that folder."
            )
    if found["max_model_len"] < policy.max_tokens:
        raise ConfigurationError(
            f"Expected {server.name} ({_KEY}) to take at least {policy.max_tokens} tokens (the larger of "
            "`rollout.limits.total_tokens` and `rollout.eval_limits.total_tokens`), got "
            f"{found['max_model_len']}. Start it with --max-model-len {policy.max_tokens}, or lower the limits."
        )
    expected = {"dtype": dtype, "logprobs_mode": "processed_logprobs"}
    for name, value in expected.items():
        if found[name] != value:
            raise ConfigurationError(
                f"Expected {server.name} ({_KEY}) to run with --{name.replace('_', '-')} {value}, got {found[name]}. "
                + ("Or set `rollout.sampler.engine.dtype`." if name == "dtype" else "Restart it.")
            )


def _check_head(server: ServerClient, head_dtype: str, found: Mapping[str, Any]) -> None:
    if head_dtype == "float32" and found["head_dtype"] != "float32":
        raise ConfigurationError(
            f"Expected {server.name} ({_KEY}) to compute logits in float32, as the trainer does, got "
            f'{found["head_dtype"]}. Start it with --hf-overrides \'{{"head_dtype": "float32"}}\', or set '
            "`rollout.sampler.engine.head_dtype` to model, which makes `policy/behavior_gap_mean` larger."
        )


async def _check_memory(server: ServerClient) -> None:
    """Raise a `SamplerError` unless the server can read this process's memory."""
    buffer = SharedBuffer()
    try:
        if not all(answer["can_open"] for answer in await server.call("llds_can_open", buffer.path)):
            raise ConfigurationError(
                f"Expected {server.name} ({_KEY}) to run on this machine and as this user, so that weights reach it "
                "through memory, got one that cannot open it. Set `rollout.sampler.transfer` to nccl (GPUs), or start "
                "it here."
            )
    finally:
        buffer.close()
