"""A packed tree gives the hidden states and gradients of plain batches, in the models that can."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import varlen
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from llds.batches.prefix_tree import PrefixTree
from llds.modules.policy import tree_attention
from llds.modules.policy.tree_attention import TREE_ATTENTION, tree_hidden_states, why_not_shared

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
}
CONFIGS = {
    "qwen2": Qwen2Config(**SMALL),
    "llama": LlamaConfig(**SMALL),
    # its norms, unlike the others', compute in the dtype of the weights
    "gpt2": GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    ),
}


def make_model(config: PreTrainedConfig, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=TREE_ATTENTION, dtype=dtype)


def group() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(1, 50, (5, 30), generator=torch.Generator().manual_seed(1))
    ids[1:4, :12] = ids[0, :12]  # a prompt
    ids[2, :20] = ids[1, :20]  # and the first call
    ids[3] = ids[1]
    return ids, torch.tensor([30, 25, 30, 25, 7])


def gradients(model: Any, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2), dtype=hidden.dtype)
    mask = torch.arange(hidden.shape[1])[None] < lengths[:, None]
    model.zero_grad()
    (hidden * weights)[mask].sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        ("gpt2", torch.float64, 1e-12),
        ("qwen2", torch.float64, 1e-6),  # its norms compute in fp32, whatever the weights are
        ("qwen2", torch.float32, 1e-5),
        ("llama", torch.float32, 1e-5),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_equals_plain_batches(name: str, dtype: torch.dtype, tolerance: float, checkpointing: bool) -> None:
    model = make_model(CONFIGS[name], dtype).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ids, lengths = group()
    mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
    tree = PrefixTree.build(ids, lengths)
    decoder = model.get_decoder()

    plain = decoder(input_ids=ids, use_cache=False).last_hidden_state
    shared = tree_hidden_states(decoder, tree)[tree.nodes]

    assert len(tree) < int(lengths.sum())
    assert float((plain - shared)[mask].detach().abs().max()) < tolerance
    expected = gradients(model, plain, lengths)
    assert float((gradients(model, shared, lengths) - expected).norm() / expected.norm()) < tolerance


def documented_varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What torch documents of its CUDA kernel: sequences back to back, the last query at the last key."""
    assert window_size == (-1, 0)
    outputs = []
    for q0, q1, k0, k1 in zip(cu_seq_q, cu_seq_q[1:], cu_seq_k, cu_seq_k[1:], strict=False):
        assert q1 - q0 <= max_q
        assert k1 - k0 <= max_k
        q, k, v = query[q0:q1], key[k0:k1], value[k0:k1]
        if enable_gqa:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * (q.shape[2] ** -0.5 if scale is None else scale)
        ahead = torch.arange(len(k)) > torch.arange(len(k) - len(q), len(k))[:, None]
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(ahead, -torch.inf).softmax(-1), v))
    return torch.cat(outputs)


def varlen_attention_of_torch_2_11(*args: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """The same, which takes as many key-value heads as heads and no `enable_gqa`."""
    assert "enable_gqa" not in kwargs
    assert args[0].shape[1] == args[1].shape[1] == args[2].shape[1]
    return documented_varlen_attention(*args, **kwargs, enable_gqa=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("takes_groups", [True, False])
@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_the_layout_for_flash_attention_gives_the_same(
    name: str, takes_groups: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself needs a GPU; what is laid out for it does not."""
    model = make_model(CONFIGS[name])
    tree = PrefixTree.build(*group())
    expected = tree_hidden_states(model.get_decoder(), tree)
    monkeypatch.setattr(tree_attention, "_fits_flash_attention", lambda queries, values: True)
    monkeypatch.setattr(tree_attention, "_TAKES_GROUPS", takes_groups)
    kernel = documented_varlen_attention if takes_groups else varlen_attention_of_torch_2_11
    monkeypatch.setattr(tree_attention, "varlen_attn", kernel)
    assert torch.allclose(tree_hidden_states(model.get_decoder(), tree), expected, rtol=0, atol=1e-6)


@pytest.mark.skipif(
    hasattr(varlen, "_select_backend") and not torch.cuda.is_available(),
    reason="this release of torch (2.15) asks the GPU which kernels it has",
)
def test_flash_attention_takes_what_is_laid_out_for_it() -> None:
    """The signature of torch's operator, checked with tensors that claim to be on a GPU."""
    tree = PrefixTree.build(torch.tensor([[1, 2, 3], [1, 2, 4]]), torch.tensor([3, 3]))
    with FakeTensorMode():
        queries = torch.empty(4, 4, 8, device="cuda", dtype=torch.bfloat16)
        keys = torch.empty(6, 2, 8, device="cuda", dtype=torch.bfloat16)
        assert tree_attention._fits_flash_attention(queries, keys)
        assert not tree_attention._fits_flash_attention(queries.float(), keys.float())
        output = tree_attention._flash_attention(queries, keys, keys, tree, None)
        assert (output.shape, output.dtype) == (queries.shape, torch.bfloat16)


def in_bfloat16(*args: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """The documented kernel, that computes in float32 and rounds what it returns."""
    return documented_varlen_attention(*(x.float() if x.is_floating_point() else x for x in args[:3]), *args[3:],
                                       **kwargs).bfloat16()  # fmt: skip


def wrong_for_keys(*args: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """One whose values are right and whose gradient of the keys is not."""
    queries, keys, *others = args
    return in_bfloat16(queries, keys.detach() + 0.9 * (keys - keys.detach()), *others, **kwargs)


def without_image(*args: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """One that was not compiled for the GPU."""
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (in_bfloat16, None),
        (wrong_for_keys, "its gradient of the keys differs from SDPA's by 10%"),
        (without_image, "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
    ],
)
def test_a_kernel_that_does_not_do_on_this_device_is_told_once_and_not_used(
    kernel: Any, reason: str | None, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(tree_attention, "varlen_attn", kernel)
    monkeypatch.setattr(tree_attention, "_TAKES_GROUPS", True)
    monkeypatch.setattr(tree_attention, "_fits_flash_attention", lambda queries, values: True)
    tree_attention.why_not_flash.cache_clear()
    try:
        model = make_model(CONFIGS["qwen2"], torch.bfloat16)
        with torch.inference_mode():
            found = tree_attention.try_flash_attention(model.config, torch.device("cpu"), torch.bfloat16)
        told = [str(one.message) for one in recwarn]
        tree = PrefixTree.build(*group())
        hidden = tree_hidden_states(model.get_decoder(), tree)
        assert bool(torch.isfinite(hidden).all())
        assert found == reason
        assert len(recwarn) == len(told) == (reason is not None)
        assert reason is None or (reason in told[0] and "SDPA, which is right and slower" in told[0])
    finally:
        tree_attention.why_not_flash.cache_clear()


def test_flash_attention_is_not_tried_where_it_is_not_used() -> None:
    config = CONFIGS["qwen2"]
    assert "on cpu" in str(tree_attention.try_flash_attention(config, torch.device("cpu"), torch.bfloat16))


def test_without_a_tree_it_is_sdpa() -> None:
    model = make_model(CONFIGS["qwen2"])
    ids, _ = group()
    expected = model(input_ids=ids).logits
    model.set_attn_implementation("sdpa")
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_says_why_a_model_cannot_share() -> None:
    for config in CONFIGS.values():
        assert why_not_shared(make_model(config)) is None
    sliding = make_model(MistralConfig(**SMALL, sliding_window=4096))
    assert "sliding window" in str(why_not_shared(sliding))
    plain = make_model(CONFIGS["qwen2"])
    plain.set_attn_implementation("eager")
    assert "eager" in str(why_not_shared(plain))
    own = AutoModelForCausalLM.from_config(FalconConfig(**SMALL), attn_implementation="sdpa")
    own.set_attn_implementation(TREE_ATTENTION)  # which it does not take
    assert str(why_not_shared(own)) == "FalconForCausalLM has an attention of its own"


def test_a_token_sees_all_of_a_long_prefix() -> None:
    model = make_model(CONFIGS["llama"], torch.float32)
    ids = torch.randint(1, 50, (3, 200), generator=torch.Generator().manual_seed(3))
    ids[1:, :180] = ids[0, :180]
    tree = PrefixTree.build(ids, torch.tensor([200, 200, 200]))
    shared = tree_hidden_states(model.get_decoder(), tree)[tree.nodes]
    assert torch.allclose(shared, model.get_decoder()(input_ids=ids).last_hidden_state, atol=1e-5)


def test_a_model_that_computes_something_else_does_not_share(monkeypatch: pytest.MonkeyPatch) -> None:
    right = tree_hidden_states
    monkeypatch.setattr(tree_attention, "tree_hidden_states", lambda *arguments: 1.1 * right(*arguments))
    assert "other hidden states" in str(why_not_shared(make_model(CONFIGS["llama"])))
