"""Which families of models llds trains, each tried on a tiny random one: writes the table of docs/models.md.

    python tools/model_table.py            # a minute or two; prints what it measures, and rewrites the page's table

A family works where sampler and trainer give the same log-probabilities (1e-4 nats) over several turns, training and
evaluation mode exactly the same, shared prefixes those of padded rows, an optimizer step moves the weights, and an
export loads in plain transformers with the log-probabilities that the policy has: of whole weights, and of adapters.
"""

import asyncio
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from llds.batches import PolicyBatch
from llds.batches.policy_batch import collate
from llds.errors import ConfigurationError
from llds.modules.policy import LoRA, Policy
from llds.modules.policy.fused_head import logit_scale
from llds.modules.policy.partitioned_loading import load_partitioned, miniature
from llds.modules.policy.tokenizer import load_tokenizer
from llds.samplers import SampleRequest, TransformersSampler
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- begin of the table: python tools/model_table.py -->", "<!-- end of the table -->"
HEAD = (
    "| family | | what trajectories share is computed | adapters | files read in parts (ZeRO-3) |",
    "| --- | --- | --- | --- | --- |",
)
NEAR = 1e-4
"""Nats between ways to compute the same."""

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
_PROMPTS = ("Question: What is the capital of Ghana?\n", "Question: What is the capital of the country Norway?\n")
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_NARROW = {"head_dim": 16}
_WINDOW = {"sliding_window": 8}
_LONG_ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
_MAMBA |= {"mamba_chunk_size": 16, "head_dim": 8}
_LINEAR = {
    **{f"linear_num_{one}_heads": 2 for one in ("key", "value")},
    **{f"linear_{one}_head_dim": 8 for one in ("key", "value")},
}


@dataclass(frozen=True)
class Family:
    """A family of models, as one of it is configured.

    Attributes:
        name: As people say it.
        kind: The configuration's class, without ``Config``.
        settings: What a small one differs in from all others.
        attention: `model.attention`.
        adapted: `model.lora.target_modules`.
        still: A part of the names of weights that get no gradient.
    """

    name: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    attention: str = "sdpa"
    adapted: str | list[str] = "all-linear"
    still: str = ""


FAMILIES = (
    Family("Qwen2, Qwen2.5", "Qwen2"),
    Family("Qwen2.5, tied, odd vocabulary", "Qwen2", {"tie_word_embeddings": True, "vocab_size": 8195}),
    Family("Qwen3", "Qwen3", _NARROW),
    Family("Qwen3-MoE", "Qwen3Moe", _NARROW | _EXPERTS),
    Family(
        "Qwen3-Next (linear attention, MoE)",
        "Qwen3Next",
        {**_NARROW, **_EXPERTS, **_LINEAR, "shared_expert_intermediate_size": 32}
        | {"layer_types": ["linear_attention", "full_attention"]},
    ),
    Family("Llama 2, 3", "Llama"),
    Family("Llama 3.1 to 3.3 (scaled RoPE)", "Llama", {"rope_parameters": _LLAMA3_ROPE}),
    Family("Mistral", "Mistral", _NARROW | {"sliding_window": None}),
    Family("Mistral 7B v0.1 (sliding window)", "Mistral", _NARROW | _WINDOW),
    Family("Mixtral", "Mixtral", _LOCAL_EXPERTS),
    Family("Gemma 1", "Gemma", _NARROW),
    Family("Gemma 2", "Gemma2", _NARROW | _WINDOW | {"query_pre_attn_scalar": 16}, "eager"),
    Family("Gemma 3", "Gemma3Text", _NARROW | _WINDOW | {"query_pre_attn_scalar": 16}),
    Family(
        "Phi-3, Phi-4-mini (LongRoPE)",
        "Phi3",
        {"original_max_position_embeddings": 256, "rope_parameters": _LONG_ROPE, "tie_word_embeddings": True},
    ),
    Family(
        "Phi-3.5-MoE",
        "Phimoe",
        _LOCAL_EXPERTS | {"router_jitter_noise": 0.01},
        adapted=["q_proj", "v_proj"],
        still="router",
    ),
    Family("OLMo 2", "Olmo2"),
    Family("OLMoE", "Olmoe", _EXPERTS),
    Family("SmolLM3", "SmolLM3"),
    Family("Granite 3 (scaled logits)", "Granite", {"logits_scaling": 8.0, "embedding_multiplier": 12.0}),
    Family("GPT-OSS", "GptOss", _NARROW | _WINDOW | _LOCAL_EXPERTS, "eager"),
    Family("Falcon-H1 (Mamba and attention)", "FalconH1", _MAMBA, adapted=["q_proj", "v_proj"]),
    Family("LFM2 (convolutions and attention)", "Lfm2", {"layer_types": ["conv", "full_attention"]}),
    Family("Cohere Command R (scaled logits)", "Cohere", {"logit_scale": 0.25}),
    Family("StarCoder2 (dropout)", "Starcoder2", {"attention_dropout": 0.1, "residual_dropout": 0.1}),
)


@dataclass
class Verdict:
    """What came of a family.

    Attributes:
        refusal: Why it is refused; empty where it works.
        figures: Differences in nats, and other measurements, for the reader of the tool's output.
        shares: Whether shared prefixes are computed once.
        adapters: With which target modules an export of adapters works.
        in_parts: Whether its files can be read part by part, as under ZeRO-3.
    """

    refusal: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    shares: bool = False
    adapters: str = ""
    in_parts: str = ""

    def row(self, family: Family) -> str:
        """Its row in the page."""
        if self.refusal:
            return f"| {family.name} | refused: {self.refusal} | | | |"
        shared = "once" if self.shares else "for each trajectory"
        key = "works" if family.attention == "sdpa" else f"works with `model.attention: {family.attention}`"
        key += f"; its {family.still} stays as it is" if family.still else ""
        return f"| {family.name} | {key} | {shared} | {self.adapters} | {self.in_parts} |"


def examine(family: Family) -> Verdict:
    """Try a tiny random model of a family.

    Raises:
        AssertionError: If it does not work and is not refused.
    """
    torch.manual_seed(0)
    with TemporaryDirectory() as place:
        folder = Path(place) / "model"
        _make(family, folder)
        try:
            policy = Policy(str(folder), attention=family.attention)
        except ConfigurationError as error:
            return Verdict(_reason(error))
        verdict = Verdict(shares=policy.shares_prefixes, in_parts=_in_parts(policy, folder, family.attention))
        batch = collate(_sampled(policy))
        verdict.figures |= _compare(policy, batch, folder, family.attention)
        _step(policy, batch, family.still)
        verdict.figures["export"] = _exported(policy, batch, Path(place) / "trained", family.attention)
        verdict.adapters = _adapters(family, batch, folder, Path(place) / "merged")
    for name, gap in verdict.figures.items():
        assert gap <= (0 if name == "modes" else NEAR), f"{family.name}: {name} differ by {gap:.3g} nats"  # noqa: S101
    return verdict


@cache
def _tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("llds:quickstart/policy")


def _make(family: Family, folder: Path) -> None:
    tokens = {"bos_token_id": None, "pad_token_id": None, "eos_token_id": _tokenizer().eos_token_id}
    settings = {"vocab_size": len(_tokenizer())} | _SIZES | tokens | family.settings
    config = getattr(transformers, f"{family.kind}Config")(**settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _reason(error: ConfigurationError) -> str:
    """What the error says of the model, without its folder."""
    text = str(error)
    return text[text.index("ForCausalLM that ") + len("ForCausalLM that ") :].split(":")[0]


def _sampled(policy: Policy) -> list[Trajectory]:
    """Two groups of three trajectories of two turns, by the default sampler."""
    tokenizer, law, sampler = _tokenizer(), SamplingParams(), TransformersSampler()
    sampler.attach(policy.base_model, tokenizer)
    trajectories = []
    for number in range(6):
        prompt = tokenizer.encode(
            "Question: What is the capital of " + ("Ghana?\n", "the country Norway?\n")[number // 3]
        )
        trajectories.append(Trajectory(Prompt("p", "", ("",), prompt_ids=tuple(prompt)), f"{number // 3}", number, law))

    async def turn(number: int) -> list[Any]:
        requests = [
            SampleRequest(row, list(one.token_ids), 5 + row, ("</answer>",), law, seed=(row, number))
            for row, one in enumerate(trajectories)
        ]
        return await asyncio.gather(*(sampler.sample(request) for request in requests))

    for row in range(len(trajectories)):
        sampler.open_trajectory(row)
    with policy.evaluating():
        for number in range(2):
            for one, done in zip(trajectories, asyncio.run(turn(number)), strict=True):
                observation = tokenizer.encode(" It is said to be Accra.") if number == 0 else []
                action = Action("tool" if observation else "answer", "search", "x")
                one.turns.append(Turn(done.token_ids, done.log_probs, done.stop_reason, action, observation))
    sampler.close()
    return trajectories


@torch.no_grad()
def _compare(policy: Policy, batch: PolicyBatch, folder: Path, attention: str) -> dict[str, float]:
    """Differences between ways to compute the same log-probabilities, in nats."""
    trained = policy.train()(batch).log_probs
    with policy.evaluating():
        scored = policy(batch).log_probs
        alone = torch.cat([policy(batch.rows(torch.tensor([row]))).log_probs[0] for row in range(len(batch))])
    padded = Policy(str(folder), attention=attention, share_prefixes=False)(batch).log_probs
    mask = batch.action_mask
    return {
        "sampler and trainer": float((scored - batch.behavior_log_probs)[mask].abs().max()),
        "modes": float((scored - trained).abs().max()),
        "shared and padded": float((scored - padded).abs().max()),
        "alone and beside": float((alone[alone != 0] - scored[mask]).abs().max()),
    }


def _step(policy: Policy, batch: PolicyBatch, expected: str) -> None:
    """One step of training; all that is trained must get a gradient, and move."""
    trained = {name: value for name, value in policy.named_parameters() if value.requires_grad}
    before = {name: value.detach().clone() for name, value in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0.0)
    (-policy.train()(batch).log_probs.sum()).backward()
    optimizer.step()
    assert all(bool(value.isfinite().all()) for value in trained.values()), "weights that are not finite"  # noqa: S101
    still = [name for name, value in trained.items() if torch.equal(value, before[name])]
    still = [name for name in still if not expected or expected not in name]
    assert not still, f"weights that did not move: {still}"  # noqa: S101


@torch.no_grad()
def _exported(policy: Policy, batch: PolicyBatch, folder: Path, attention: str) -> float:
    """The difference between a policy and its export in plain transformers, in nats."""
    policy.save_pretrained(folder, _tokenizer())
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, output_loading_info=True)
    model, report = loaded
    assert not report["missing_keys"] and not report["unexpected_keys"], report  # noqa: S101, PT018
    logits = model.eval()(input_ids=batch.input_ids).logits.log_softmax(-1)
    found = logits[:, :-1].gather(2, batch.input_ids[:, 1:, None])[..., 0]
    with policy.evaluating():
        own = policy(batch).log_probs[:, 1:]
    return float((found - own)[batch.action_mask[:, 1:]].abs().max())


def _in_parts(policy: Policy, folder: Path, attention: str) -> str:
    """Whether the files can be read tensor by tensor, and a small copy of the model tells what the model would."""
    try:
        model = load_partitioned(folder, torch.float32, attention, nullcontext)
    except ConfigurationError as error:
        if "fuses" not in str(error):
            raise
        return "no: fused experts"
    read = dict(model.named_parameters())
    assert all(torch.equal(value, read[name]) for name, value in policy.weights() if name in read)  # noqa: S101
    small = miniature(model)
    assert logit_scale(small, str(folder)) == policy.logit_scale  # noqa: S101
    return "yes"


def _adapters(family: Family, batch: PolicyBatch, folder: Path, merged: Path) -> str:
    """With which target modules adapters are exported right."""
    policy = Policy(str(folder), attention=family.attention, lora=LoRA(2, 4, family.adapted))
    with torch.no_grad():
        for value in policy.parameters():
            if value.requires_grad:
                value.normal_(0, 0.1)
    gap = _exported(policy, batch, merged, family.attention)
    assert gap <= NEAR, f"{family.name}: adapters and their export differ by {gap:.3g} nats"  # noqa: S101
    return "yes" if family.adapted == "all-linear" else f"`target_modules: {family.adapted}`".replace("'", "")


def table() -> list[str]:
    """The rows of all families."""
    rows = [*HEAD]
    for family in FAMILIES:
        verdict = examine(family)
        sys.stderr.write(f"{family.name}: {verdict.refusal or verdict.figures}\n")
        rows.append(verdict.row(family))
    return rows


def main() -> None:
    """Rewrite the table in the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text("\n".join([before + BEGIN, "", *table(), "", END + after]))


if __name__ == "__main__":
    main()
