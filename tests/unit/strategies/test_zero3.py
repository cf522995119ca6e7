"""What the strategy refuses before anything is loaded; what it does on two ranks is in tests/integration."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from llds.errors import ConfigurationError
from llds.strategies import ZeRO3Strategy, is_lost_rank, ranks_of_checkpoint

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs the extra deepspeed")


@pytest.mark.parametrize(
    ("config", "owner"),
    [
        ({"gradient_clipping": 1.0}, "model.optimization.max_grad_norm"),
        ({"gradient_accumulation_steps": 4}, "mini_batch_size"),
        ({"optimizer": {"type": "Adam"}}, "model.optimization"),
        ({"bf16": {"enabled": True}}, "trainer.precision"),
        ({"zero_optimization": {"stage": 2}}, "trainer.strategy.class_path"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "init_args.offload_optimizer"),
    ],
)
@needs_deepspeed
def test_a_setting_that_llds_owns_is_refused_with_its_own_key(config: dict[str, Any], owner: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"trainer\.strategy\.init_args\.config.*without.*{owner}"):
        ZeRO3Strategy(config=config)


@needs_deepspeed
@pytest.mark.parametrize("content", [None, "{not json"])
def test_a_config_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "deepspeed.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"init_args\.config.*deepspeed\.json"):
        ZeRO3Strategy(config=str(path))


@needs_deepspeed
def test_gradients_of_micro_batches_add_up_in_float32_unless_told_otherwise() -> None:
    assert ZeRO3Strategy().config["data_types"] == {"grad_accum_dtype": "fp32"}
    told = ZeRO3Strategy(config={"data_types": {"grad_accum_dtype": "bf16"}})
    assert told.config["data_types"] == {"grad_accum_dtype": "bf16"}


@needs_deepspeed
def test_other_settings_of_deepspeed_reach_it() -> None:
    zero = {"reduce_bucket_size": 1000, "overlap_comm": False}
    strategy = ZeRO3Strategy(config={"wall_clock_breakdown": True, "zero_optimization": zero}, offload_optimizer=True)
    strategy.set_clipping(0.5)
    assert isinstance(strategy.config, dict)
    assert strategy.config["wall_clock_breakdown"]
    assert strategy.config["gradient_clipping"] == 0.5
    assert strategy.config["zero_optimization"].items() >= (zero | {"stage": 3}).items()
    assert strategy.config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    strategy.set_clipping(float("inf"))
    assert strategy.config["gradient_clipping"] == 0


def test_without_deepspeed_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find(name))
    with pytest.raises(ConfigurationError, match=r"pip install 'llds\[deepspeed\]'"):
        ZeRO3Strategy()


def test_a_checkpoint_tells_how_many_ranks_wrote_it(tmp_path: Path) -> None:
    assert ranks_of_checkpoint(tmp_path) is None
    (tmp_path / "checkpoint").mkdir()
    for rank in range(3):
        (tmp_path / "checkpoint" / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
        (tmp_path / "checkpoint" / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").touch()
    assert ranks_of_checkpoint(tmp_path) == 3


def test_an_error_of_a_lost_rank_is_told_from_others() -> None:
    assert is_lost_rank(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:159"))
    assert not is_lost_rank(RuntimeError("size mismatch"))
