"""Updates of verl's own actor on the CPU, as JSON: its FSDP engine, its loss of the actor, its optimizer.

    python tests/unit/integrations/actor_of_verl.py

verl knows no CPU, so one is registered where it lets platforms be added. Another release of TRL than verl's is hidden
from it: verl only patches a class of it that the actor does not use.
"""

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

os.environ["VERL_PLATFORM"] = "cpu"

import torch
from verl.models.transformers import monkey_patch
from verl.plugin.platform.platform_cuda import PlatformCUDA
from verl.plugin.platform.platform_manager import PlatformRegistry

from llds.integrations.verl import register
from llds.losses import llds_penalty, number_actions

LENGTHS = (12, 9, 12, 7, 10, 12, 8, 11)
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -0.5, 1.0, -1.0, 0.7, -0.7])
PROMPT, UPDATES = 5, 3


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformCUDA):  # type: ignore[misc]
    """This machine without an accelerator."""

    device_name, device_module = "cpu", torch.cpu

    def is_available(self) -> bool:
        """It is."""
        return True

    def current_device(self) -> torch.device:
        """The only one."""
        return torch.device("cpu")

    def empty_cache(self) -> None:
        """There is none."""


def engine(policy: Path) -> Any:
    """Verl's engine of the actor with FSDP2."""
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    plain = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    made = FSDPEngineWithLMHead(
        HFModelConfig(
            path=str(policy),
            use_remove_padding=False,
            enable_gradient_checkpointing=False,
            override_config={"attn_implementation": "sdpa"},
        ),
        FSDPEngineConfig(strategy="fsdp2", use_torch_compile=False, mixed_precision=plain, fsdp_size=1),
        FSDPOptimizerConfig(lr=1e-2, total_training_steps=10),
        CheckpointConfig(),
    )
    made.initialize()
    return made


def batch(**more: Any) -> Any:
    """A mini-batch in four micro-batches; the tokens 3 and 4 of each response are a tool's."""
    from verl.utils import tensordict_utils

    ids = torch.randint(5, 200, (8, PROMPT + 12), generator=torch.Generator().manual_seed(0))
    masks = [torch.tensor([1] * 3 + [0] * 2 + [1] * (length - 5)) for length in LENGTHS]
    parts = {
        "input_ids": [row[: PROMPT + length] for row, length in zip(ids, LENGTHS, strict=True)],
        "position_ids": [torch.arange(PROMPT + length) for length in LENGTHS],
        "prompts": list(ids[:, :PROMPT]),
        "responses": [row[PROMPT : PROMPT + length] for row, length in zip(ids, LENGTHS, strict=True)],
        "response_mask": masks,
        "loss_mask": masks,
        "advantages": [one.expand(length) for one, length in zip(ADVANTAGES, LENGTHS, strict=True)],
    }
    settings = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 2, "use_remove_padding": False}
    settings |= {"temperature": 1.0, "global_batch_size": 8, "calculate_entropy": True}
    nested = {name: torch.nested.as_nested_tensor(one, layout=torch.jagged) for name, one in (parts | more).items()}
    return tensordict_utils.get_tensordict(nested, settings)


def log_probs(actor: Any) -> Any:
    """Of the responses under the actor, ``[8, 12]``."""
    from verl.workers.utils.padding import no_padding_2_padding

    with actor.eval_mode(disable_auto_offload=True), torch.no_grad():
        return no_padding_2_padding(actor.infer_batch(batch(), None)["model_output"]["log_probs"], batch())


def updates(policy: Path, loss: str, strength: str) -> dict[str, Any]:
    """Some updates with a policy loss: what verl says of them, and the penalty that each should have had."""
    from verl.workers.config import ActorConfig, PolicyLossConfig
    from verl.workers.utils.losses import ppo_loss

    os.environ["LLDS_LAMBDA"] = strength
    config = ActorConfig(
        strategy="fsdp2",
        rollout_n=4,
        ppo_micro_batch_size_per_gpu=2,
        use_dynamic_bsz=False,
        policy_loss=PolicyLossConfig(loss_mode=loss),
    )
    actor = engine(policy)
    before = log_probs(actor)
    old = [row[:length].clone() for row, length in zip(before, LENGTHS, strict=True)]
    mask = batch()["response_mask"].to_padded_tensor(0).bool()
    said: dict[str, Any] = {"loss": [], "grad_norm": [], "penalty": [], "logged": []}
    for _ in range(UPDATES):
        penalty = llds_penalty(log_probs(actor), before, ADVANTAGES, number_actions(mask), aggregation="token")
        with actor.train_mode(disable_auto_offload=True):
            output = actor.train_batch(batch(old_log_probs=old), partial(ppo_loss, config))
        said["loss"].append(sum(output["loss"]))
        said["grad_norm"].append(output["metrics"]["grad_norm"])
        said["penalty"].append(float(penalty.loss))
        said["logged"].append(sorted(output["metrics"]))
    return said


def main() -> None:
    """Verl's own loss, the same by our name with lambda 0, and with 0.2."""
    import llds.quickstart

    monkey_patch.is_trl_available = lambda: False
    register()
    meeting = Path(tempfile.mkdtemp()) / "meeting"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    policy = Path(llds.quickstart.__path__[0]) / "policy"
    runs = {"own": ("vanilla", "0"), "zero": ("llds", "0"), "with": ("llds", "0.2")}
    print("\n" + json.dumps({name: updates(policy, *settings) for name, settings in runs.items()}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
