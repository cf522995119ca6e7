"""LLDS in verl's own registry of policy losses, and the watch among its loggers."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llds.losses import llds_penalty, number_actions
from llds.monitor.sources.verl import VOCABULARY

pytestmark = pytest.mark.slow
pytest.importorskip("verl", reason="bash tools/install_verl.sh")

from verl.trainer.ppo.core_algos import get_policy_loss_fn  # noqa: E402
from verl.utils.tracking import Tracking  # noqa: E402
from verl.workers.config import ActorConfig  # noqa: E402

from llds.errors import ConfigurationError  # noqa: E402
from llds.integrations.verl import register  # noqa: E402

MASK = torch.tensor([[1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 0, 1, 1, 1]])
GENERATOR = torch.Generator().manual_seed(0)
OLD, NEW = (-3 * torch.rand(3, 6, generator=GENERATOR) for _ in range(2))
ADVANTAGES = torch.tensor([[0.8], [-1.2], [0.4]]).expand(3, 6)


def both_losses(monkeypatch: pytest.MonkeyPatch, strength: str, **info: Any) -> tuple[Any, Any]:
    register()
    monkeypatch.setenv("LLDS_LAMBDA", strength)
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1)
    config.global_batch_info.update(info)
    arguments = (OLD, NEW, ADVANTAGES, MASK, "token-mean", config)
    return get_policy_loss_fn("vanilla")(*arguments), get_policy_loss_fn("llds")(*arguments)


def test_lambda_0_is_verls_own_loss_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    (own, _), (with_llds, _) = both_losses(monkeypatch, "0")
    assert torch.equal(own, with_llds)


def test_the_penalty_is_that_of_llds_over_all_tokens_of_the_mini_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    (own, _), (with_llds, metrics) = both_losses(monkeypatch, "0.2", dp_size=2, batch_num_tokens=40)
    actions = number_actions(MASK)
    assert actions[0].tolist() == [0, 0, -1, -1, 1, 1]
    expected = llds_penalty(NEW, OLD, ADVANTAGES[:, 0], actions, aggregation="token", denominator=20.0).loss
    assert float(expected) > 0
    assert float(with_llds - own) == pytest.approx(0.2 * float(expected), rel=1e-5)
    signals = VOCABULARY.row(metrics)
    means = [float(OLD[row][MASK[row].bool()].mean()) for row in (0, 2)]
    assert signals["policy/log_likelihood_correct"] == pytest.approx(sum(means) / 2, rel=1e-5)


def test_the_logger_speaks_when_the_reward_collapses(caplog: pytest.LogCaptureFixture) -> None:
    register()
    tracking = Tracking("project", "run", ["llds"])
    with caplog.at_level(logging.WARNING, "llds"):
        for step in range(40):
            fall = 0.5 * max(0.0, min(1.0, (step - 20) / 8))
            tracking.log({"critic/score/mean": 0.6 + 0.02 * (step % 3) - fall}, step)
    assert "alarm since iteration 2" in caplog.text
    assert len(caplog.records) == 1


def verl_config(mini_batch: int, epochs: int = 1, mode: str = "llds", batch: int = 256) -> dict[str, Any]:
    actor = {"policy_loss": {"loss_mode": mode}, "ppo_mini_batch_size": mini_batch, "ppo_epochs": epochs}
    return {"data": {"train_batch_size": batch}, "actor_rollout_ref": {"actor": actor}}


def test_one_update_of_each_rollout_is_refused_as_the_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    with pytest.raises(ConfigurationError, match=r"got one: ppo_epochs 1 and ppo_mini_batch_size 256 of 256 prompts"):
        Tracking("project", "run", ["console"], config=verl_config(256))
    several = [verl_config(64), verl_config(256, epochs=2)]
    of_others = [verl_config(256, mode="vanilla"), verl_config(256, batch=0), {}, None]  # 0: verl trains fully async
    for config in [*several, *of_others]:
        Tracking("project", "run", ["console"], config=config)
    monkeypatch.setenv("LLDS_LAMBDA", "0")
    Tracking("project", "run", ["console"], config=verl_config(256))


def test_verl_finds_both_by_its_environment_variable_and_without_lightning() -> None:
    code = (
        "import verl, sys\n"
        "from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY\n"
        "from verl.utils.tracking import Tracking\n"
        "print('llds' in POLICY_LOSS_REGISTRY, 'llds' in Tracking.supported_backend, 'lightning' in sys.modules)"
    )
    environment = os.environ | {"VERL_USE_EXTERNAL_MODULES": "llds.integrations.verl"}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().splitlines()[-1:] == ["True True False"], done.stderr[-2000:]


def test_verls_own_actor_trains_with_it() -> None:
    """Its FSDP engine, four micro-batches an update: lambda 0 is its own training to the bit, 0.2 adds our penalty."""
    script = Path(__file__).with_name("actor_of_verl.py")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    own, zero, with_llds = said["own"], said["zero"], said["with"]
    assert (zero["loss"], zero["grad_norm"]) == (own["loss"], own["grad_norm"])
    assert with_llds["loss"][0] == own["loss"][0]  # the policy is still the old one
    assert with_llds["penalty"][1] > 0
    assert with_llds["loss"][1] - own["loss"][1] == pytest.approx(0.2 * with_llds["penalty"][1], rel=1e-4)
    assert with_llds["loss"][2] != own["loss"][2]
    assert {"actor/llds_loss", "actor/llds_open_share", "actor/better_responses"} <= set(with_llds["logged"][0])
