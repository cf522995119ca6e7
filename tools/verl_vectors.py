"""Record what verl's losses and advantages are on random trajectories, to hold llds' to them.

    pip download --no-deps verl==0.9.1 && unzip -d VERL verl-0.9.1-*.whl
    python tools/verl_vectors.py VERL        # writes tests/recordings/verl.json

Float64, on 6 trajectories of at most 9 action tokens. verl is no dependency: what it imports and is not here (ray,
tensordict, ...) is replaced by empty modules, none of which its functions of losses and advantages use.
"""

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch

OUTPUT = Path("tests/recordings/verl.json")
ABSENT = ("ray", "tensordict", "codetiming", "hydra", "datasets", "pandas", "torchdata", "transfer_queue", "sglang")
LOSSES: dict[str, tuple[str, dict[str, float]]] = {
    "vanilla": ("trajectory", {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 1.3}),
    "dppo_tv": ("token", {"clip_ratio_low": 0.05, "clip_ratio_high": 0.08, "clip_ratio_c": 1.3}),
    "dppo_kl": ("token", {"clip_ratio_low": 0.01, "clip_ratio_high": 0.02, "clip_ratio_c": 20.0}),
    "sapo": ("trajectory", {}),
    "geo_mean": ("trajectory", {"clip_ratio_low": 0.2, "clip_ratio_high": 0.1}),
    "cispo": ("token", {"clip_ratio_low": 0.2, "clip_ratio_high": 0.25}),
}
"""Name in verl, aggregation in llds, settings of verl."""
WEIGHTS = [1.0, 0.25]
"""Of answer and form, the two parts of the reward."""
MODES = {"trajectory": "seq-mean-token-mean", "token": "token-mean"}


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds packages that are not installed, empty."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """A spec for those of `ABSENT`."""
        root = fullname.split(".")[0]
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if root in ABSENT else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """An object that has every name."""
        return MagicMock(name=spec.name, __path__=[], __spec__=spec)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing."""


def trajectories() -> dict[str, torch.Tensor]:
    """Random ones; two groups of three, an observation in most, one padded."""
    generator = torch.Generator().manual_seed(7)
    shape = (6, 9)
    old = -0.05 - 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
    new = (old + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(max=-0.01)
    mask = torch.ones(shape, dtype=torch.float64)
    mask[1:, 3:5] = 0
    mask[4, 6:] = 0
    rewards = torch.tensor([1, 0, 0, 0.5, 1, 0], dtype=torch.float64)
    form = torch.tensor([1, 0, 1, 0, 0, 1], dtype=torch.float64)
    groups = torch.arange(6) // 3
    return {"log_probs": new, "old_log_probs": old, "mask": mask, "rewards": rewards, "form": form, "groups": groups}


def losses(core: Any, config: type, data: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Loss and gradient by the log-probs of each policy loss."""
    advantages = data["advantages"].unsqueeze(1) * data["mask"]
    found = {}
    for name, (aggregation, settings) in LOSSES.items():
        leaf = data["log_probs"].clone().requires_grad_()
        actor = config(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **settings)
        function = core.get_policy_loss_fn(name)
        loss = function(data["old_log_probs"], leaf, advantages, data["mask"], MODES[aggregation], actor, None)[0]
        loss.backward()
        found[name] = {"loss": loss.item(), "gradient": leaf.grad.tolist()}  # type: ignore[union-attr]
    return found


def advantages(core: Any, data: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Advantages of each estimator, by token."""
    rewards = torch.zeros_like(data["mask"])
    last = (data["mask"] * torch.arange(1, 10)).argmax(1)
    rewards[torch.arange(6), last] = data["rewards"]
    index = np.array([str(number) for number in data["groups"].tolist()], dtype=object)
    config = MagicMock(gamma=0.9)
    return {
        "grpo": core.compute_grpo_outcome_advantage(rewards.clone(), data["mask"], index)[0].tolist(),
        "gdpo": core.compute_gdpo_outcome_advantage(
            rewards.clone(),
            data["mask"],
            index,
            config={"gdpo_reward_keys": ["answer", "form"], "gdpo_reward_weights": WEIGHTS},
            non_tensor_batch={"answer": data["rewards"].tolist(), "form": data["form"].tolist()},
            batch={"prompts": torch.zeros(6, 1), "attention_mask": torch.ones(6, 10, dtype=torch.long)},
        )[0].tolist(),
        "rloo": core.compute_rloo_outcome_advantage(rewards.clone(), data["mask"], index)[0].tolist(),
        "reinforce_pp_discounted": core.compute_reinforce_plus_plus_outcome_advantage(
            rewards.clone(), data["mask"], config
        )[0].tolist(),
        "reinforce_pp_baseline": core.compute_reinforce_plus_plus_baseline_outcome_advantage(
            rewards.clone(), data["mask"], index
        )[0].tolist(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verl", type=Path, help="folder that holds the package verl")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(options.verl))
    sys.meta_path.append(_Absent())
    core = importlib.import_module("verl.trainer.ppo.core_algos")
    config = importlib.import_module("verl.workers.config").ActorConfig
    data = trajectories()
    data["advantages"] = torch.tensor([1.2, -0.6, -0.6, 0.0, 1.0, -1.0], dtype=torch.float64)
    written: dict[str, Any] = {name: value.tolist() for name, value in data.items()}
    written |= {"losses": losses(core, config, data), "advantages_of": advantages(core, data)}
    OUTPUT.write_text(json.dumps(written) + "\n")


if __name__ == "__main__":
    main()
