"""Settings that cannot train are refused before any weight is loaded, with the keys and a way out."""

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from llds.errors import ConfigurationError
from llds.losses import (
    Advantages,
    GiGPOAdvantages,
    GMPOLoss,
    GroupAdvantages,
    GRPOLoss,
    GSPOLoss,
    HighEntropyTokens,
    ImportanceCorrection,
    ImportanceMask,
    IPOLoss,
    KLCov,
    LLDSPenalty,
    MTGRPOAdvantages,
    NegativeWeight,
    ReinforcePlusPlusAdvantages,
    TurnRatioLoss,
    VoidTurns,
    WAPOLoss,
)
from llds.modules import LoRA, Objective, Optimization, Policy, SearchAgentModule
from llds.modules.policy.tokenizer import check_vocabulary, load_tokenizer
from llds.modules.start_up import check_checkpoint, check_objective, check_training
from llds.paths import resolve_path

POLICY = "llds:quickstart/policy"
OBJECTIVE = Objective(GRPOLoss(), None, None)


def trainer(**settings: Any) -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **({"max_epochs": 1} | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "16-true"}, r"trainer\.precision.*16-true.*bf16-mixed"),
        ({"max_steps": 100}, r"data\.iterations.*max_steps` = 100"),
        ({"max_epochs": -1}, r"trainer\.max_epochs` = -1"),
    ],
)
def test_a_trainer_that_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_training(trainer(**settings), 8, Optimization(), OBJECTIVE)


def test_scaled_losses_are_refused() -> None:
    mixed = trainer()
    mixed.strategy.precision_plugin.precision = "16-mixed"  # type: ignore[misc]
    with pytest.raises(ConfigurationError, match="16-mixed"):
        check_training(mixed, 8, Optimization(), OBJECTIVE)


def test_a_long_text_that_will_be_cut_brings_no_warning_of_indexing_errors(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer, logger = load_tokenizer(POLICY), logging.getLogger("transformers")
    logger.addHandler(caplog.handler)  # it does not propagate
    try:
        assert len(tokenizer("word " * 600)["input_ids"]) > tokenizer.model_max_length
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16-mixed"}, {"fast_dev_run": True}, {"max_epochs": 3}])
def test_a_trainer_that_fits_is_not(settings: dict[str, Any]) -> None:
    check_training(trainer(**settings), 8, Optimization(), OBJECTIVE)


@pytest.mark.parametrize(
    ("optimization", "penalty", "is_refused"),
    [
        (Optimization(mini_batch_size=8), LLDSPenalty(), True),
        (Optimization(mini_batch_size=8, epochs=2), LLDSPenalty(), False),
        (Optimization(mini_batch_size=4), LLDSPenalty(), False),
        (Optimization(mini_batch_size=8), LLDSPenalty(0.0), False),
        (Optimization(mini_batch_size=8), LLDSPenalty(anchor="lagged"), False),
        (Optimization(mini_batch_size=8), None, False),
    ],
)
def test_llds_must_be_able_to_act(optimization: Optimization, penalty: LLDSPenalty | None, is_refused: bool) -> None:
    objective = Objective(GRPOLoss(), None, penalty)
    if not is_refused:
        check_training(trainer(), 8, optimization, objective)
        return
    with pytest.raises(ConfigurationError) as caught:
        check_training(trainer(), 8, optimization, objective)
    keys = ("data.batch_size", "model.optimization.mini_batch_size", "optimization.epochs", "llds_penalty.anchor")
    assert all(key in str(caught.value) for key in keys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mini_batch_size", 0), ("micro_batch_size", 0), ("epochs", 0), ("max_nonfinite_steps", 0),
        ("learning_rate", -1.0), ("learning_rate", math.nan), ("weight_decay", -0.1), ("betas", (0.9, 1.0)),
        ("warmup_ratio", 1.5), ("max_grad_norm", 0.0),
    ],
)  # fmt: skip
def test_an_optimization_out_of_range_names_its_key(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"model\.optimization\.{name}"):
        Optimization(**{name: value})


@pytest.mark.parametrize("settings", [{"rank": 0}, {"alpha": 0}])
def test_adapters_of_no_size_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.lora"):
        LoRA(**settings)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.seed"):
        SearchAgentModule(POLICY, seed=-1)


def test_a_folder_that_does_not_exist_is_refused_when_the_module_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.policy.*does not exist.*llds:quickstart/policy"):
        SearchAgentModule(str(tmp_path / "nothing"))


def test_a_tokenizer_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(resolve_path(POLICY), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}))
    with pytest.raises(ConfigurationError, match="end-of-sequence"):
        load_tokenizer(str(folder))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigurationError, match="does not load"):
        load_tokenizer(str(folder))


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused() -> None:
    tokenizer, policy = load_tokenizer(POLICY), Policy(POLICY)
    check_vocabulary(tokenizer, policy.base_model, POLICY)
    tokenizer.add_tokens([f"<more{number}>" for number in range(8200 - len(tokenizer))])
    with pytest.raises(ConfigurationError, match=r"at most 8192 tokens.*got 8200"):
        check_vocabulary(tokenizer, policy.base_model, POLICY)


def test_a_checkpoint_of_zero3_is_refused_without_it(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    (path / "checkpoint").mkdir(parents=True)
    (path / "checkpoint" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    without = trainer()
    check_checkpoint(without)
    without.ckpt_path = str(path)
    with pytest.raises(ConfigurationError, match=r"run with ZeRO-3 \(`trainer\.strategy`\).*llds export"):
        check_checkpoint(without)


def test_fewer_prompts_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    many = trainer()
    monkeypatch.setattr(type(many), "world_size", 16)
    with pytest.raises(ConfigurationError, match=r"data\.batch_size.*number of processes, 16.*got 8 prompts"):
        check_training(many, 8, Optimization(), OBJECTIVE)


@pytest.mark.parametrize(
    ("objective", "advantages", "message"),
    [
        (Objective(GSPOLoss(), None, None), MTGRPOAdvantages(), r"for MTGRPOAdvantages .* got GSPOLoss"),
        (
            Objective(GMPOLoss(), None, None),
            NegativeWeight(0.5, GiGPOAdvantages()),
            "for NegativeWeight",
        ),
        (
            Objective(GSPOLoss(), None, None),
            ReinforcePlusPlusAdvantages(discount=0.9),
            "for ReinforcePlusPlusAdvantages",
        ),
        (Objective(GSPOLoss(), None, None, selections=[KLCov()]), None, r"for KLCov .* got GSPOLoss"),
        (Objective(GMPOLoss(), None, None, selections=[HighEntropyTokens()]), None, "for HighEntropyTokens"),
        (
            Objective(WAPOLoss(), None, None, ImportanceCorrection()),
            None,
            r"\(WAPOLoss\) and .*correction` \(",
        ),
        (Objective(IPOLoss(), None, None, selections=[ImportanceMask()]), None, r"selections` \(ImportanceMask\)"),
    ],
)
def test_a_loss_refuses_what_it_cannot_take(objective: Objective, advantages: Advantages | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_objective(objective, advantages)


def test_a_loss_takes_what_goes_with_it() -> None:
    check_objective(Objective(GSPOLoss(), None, None, selections=[VoidTurns()]), ReinforcePlusPlusAdvantages())
    check_objective(Objective(TurnRatioLoss(), None, None, selections=[KLCov()]), MTGRPOAdvantages())
    check_objective(Objective(WAPOLoss(), None, None), GroupAdvantages())
