"""How often the canary stops a run whose engine is right, and how often it lets a wrong one pass, in bfloat16.

    python tools/bench/rollout/canary_rates.py --updates 1000
    python tools/bench/rollout/canary_rates.py --policy FOLDER --updates 20

Engine and trainer have the same weights in bfloat16 and round differently, as kernels do that add up in float32: the
trainer what linear layers return (as under autocast), the engine what every module returns, and logits where `--head`
says so. Between updates the weights walk at random, by `--step` of each tensor's spread, and are drawn back to where
they began. Tokens are sampled once. Each update is judged by `llds.samplers.canary.Canary` as it is, and with one fault
in turn; the run's own gaps are those of right updates.

A row is a fault: `refused` of `updates` (of right ones: a false alarm), the mean gap, and how often a largest
difference above 0.3 on the first 16 tokens would have refused.
"""

import argparse
import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.samplers.canary import Canary, CanaryLimits
from llds.types import SamplingParams

_PULL = 0.05  # share of the way back to the first weights, per update
_ACTIONS = 64


class Pair:
    """An engine and a trainer with weights that walk.

    Args:
        policy: Folder of the policy.
        head: In which the engine computes logits: ``bfloat16`` or ``float32``.
        step: Length of an update, in shares of each tensor's standard deviation.
        seed: Of the walk.
    """

    def __init__(self, policy: str, head: str, step: float, seed: int) -> None:
        folder = resolve_path(policy)
        self.trainer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        self.engine = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        self.first = deepcopy(self.trainer.state_dict())
        self.head, self.step = head, step
        self.generator = torch.Generator().manual_seed(seed)
        sampling = SamplingParams()
        self.canary = Canary(CanaryLimits(), ("bfloat16", "bfloat16"), load_tokenizer(policy), 512, sampling)
        self.ids = [self._sampled(torch.tensor([one.token_ids for one in text])) for text in self.canary.requests]
        self.shown = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        _round_outputs(self.shown, of_all=False)
        _round_outputs(self.engine, of_all=True)

    def _sampled(self, prompts: Tensor) -> Tensor:
        torch.manual_seed(0)
        ones = torch.ones_like(prompts)
        sampled: Any = self.trainer.generate(  # type: ignore[misc]
            prompts, attention_mask=ones, do_sample=True, min_new_tokens=_ACTIONS, max_new_tokens=_ACTIONS
        )
        return torch.as_tensor(sampled)

    def walk(self) -> None:
        """An update of the trainer's weights."""
        for name, value in self.trainer.named_parameters():
            noise = torch.randn(value.shape, generator=self.generator)
            value += self.step * self.first[name].std().nan_to_num(0.1) * noise + _PULL * (self.first[name] - value)

    def score(self, model: PreTrainedModel, weights: dict[str, Tensor], text: int, head: str) -> Tensor:
        """Log-probabilities of a text's sampled tokens by weights that are rounded to bfloat16."""
        for name, value in model.state_dict().items():
            value.copy_(weights[name].bfloat16())
        ids = self.ids[text]
        hidden = model.get_decoder()(ids, use_cache=False).last_hidden_state[:, -1 - _ACTIONS : -1]
        logits = hidden @ model.get_output_embeddings().weight.T
        logits = logits.to(getattr(torch, head)).float()
        return logits.log_softmax(-1).gather(-1, ids[:, -_ACTIONS:, None])[..., 0].flatten()

    def judge(self, now: dict[str, Tensor], engines: dict[str, Tensor]) -> tuple[bool, float, bool]:
        """Whether the canary refuses; the mean gap on the first text; whether its largest of 16 is above 0.3."""
        gaps: list[Tensor] = []
        for text in range(len(self.ids)):
            ours = self.score(self.shown, now, text, "float32")
            gaps.append((ours - self.score(self.engine, engines, text, self.head)).abs())
            if self.canary.is_in_order({"engine": float(gaps[-1].mean())}):
                break
        else:
            text += 1
        return text == len(self.ids), float(gaps[0].mean()), bool(gaps[0][:16].max() > 0.3)


def _round_outputs(model: PreTrainedModel, of_all: bool) -> None:
    """Round what linear layers return to bfloat16, or what all modules return."""
    for module in model.modules():
        if isinstance(module, nn.Linear) or (of_all and module is not model):
            module.register_forward_hook(lambda module, given, output: _rounded(output))


def _rounded(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.bfloat16().float() if output.is_floating_point() else output
    return type(output)(_rounded(one) for one in output) if isinstance(output, tuple) else output


def faults(pair: Pair) -> dict[str, Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]]:
    """What an engine may compute with, from the present weights and those of ten updates ago."""
    names = list(pair.first)
    drawn = torch.Generator().manual_seed(1)

    def pick(kind: str) -> str:
        wanted = [name for name in names if kind in name]
        return wanted[int(torch.randint(len(wanted), (1,), generator=drawn))]

    def changed(now: dict[str, Tensor], name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return now | {name: change(now[name])}

    def noisy(value: Tensor) -> Tensor:
        return value + value.std() * torch.randn(value.shape, generator=drawn)

    return {
        "none": lambda now, old: now,
        "stale by ten updates": lambda now, old: old,
        "half of the tensors stale by ten": lambda now, old: now | {name: old[name] for name in names[::2]},
        "one matrix drawn anew": lambda now, old: changed(now, pick("proj"), lambda x: x[torch.randperm(len(x))]),
        "one matrix with as much noise": lambda now, old: changed(now, pick("proj"), noisy),
        "one norm doubled": lambda now, old: changed(now, pick("norm"), lambda x: 2 * x),
        "embeddings shifted by a row": lambda now, old: {
            name: value.roll(1, 0) if len(value) == len(now["lm_head.weight"]) else value for name, value in now.items()
        },
    }


@torch.no_grad()
def main() -> None:
    """Print one JSON object a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="llds:quickstart/policy")
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--head", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--step", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pair = Pair(given.policy, given.head, given.step, given.seed)
    kinds = faults(pair)
    rows: dict[str, list[tuple[bool, float, bool]]] = {name: [] for name in kinds}
    history: list[dict[str, Tensor]] = []
    for update in range(given.updates):
        pair.walk()
        now = {name: value.clone() for name, value in pair.trainer.state_dict().items()}
        history = [*history[-10:], now]
        rows["none"].append(pair.judge(now, now))
        if not rows["none"][-1][0]:
            pair.canary.remember(rows["none"][-1][1])
        if update >= 10:
            turn = list(kinds)[1 + update % (len(kinds) - 1)]
            rows[turn].append(pair.judge(now, kinds[turn](now, history[0])))
    for name, found in rows.items():
        refused, means, before = zip(*found, strict=True) if found else ((), (0.0,), ())
        print(
            json.dumps(
                {
                    "fault": name,
                    "updates": len(found),
                    "refused": sum(refused),
                    "mean gap": round(sum(means) / len(means), 4),
                    "largest mean gap": round(max(means), 4),
                    "smallest mean gap": round(min(means), 4),
                    "refused by the largest of 16 above 0.3": sum(before),
                }
            )
        )


if __name__ == "__main__":
    main()
