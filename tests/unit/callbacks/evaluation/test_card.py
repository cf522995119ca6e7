"""The card of an evaluation, and the table that is printed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llds.agent_tools import SearchTool
from llds.callbacks import EvaluationTable
from llds.callbacks.evaluation import AnswerCalibration
from llds.callbacks.evaluation.card import settings_of
from llds.data import DataSource
from llds.errors import SamplerError
from llds.evaluation import card_differences, list_records, read_record
from llds.modules import hash_on_first_rank, weights_hash
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rollout import ChatToolProtocol, EpisodeLimits
from llds.types import SamplingParams
from tests.runs import LIMITS, answers, make_run, rows, scripted, tiny_policy

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(2, dtype=torch.bfloat16)}


def card(folder: Path, **settings: Any) -> dict[str, Any]:
    """Of an evaluation with these settings of `RolloutCallback`."""
    run = make_run(folder, EvaluationTable(), AnswerCalibration(), sampler=scripted(answers), rollout=settings)
    run.trainer.test(run.module, run.data, verbose=False)
    return read_record(folder).card


def test_a_protocol_of_chats_is_told_by_its_settings() -> None:
    protocol, tokenizer = ChatToolProtocol(answer_pattern="is (.*)"), load_tokenizer("llds:quickstart/policy_chat")
    protocol.attach(tokenizer, [SearchTool()])
    settings = settings_of(protocol)
    assert json.loads(json.dumps(settings)) == settings
    assert settings["answer_pattern"] == "is (.*)"


def differing(*cards: dict[str, Any]) -> set[str]:
    return {one.key for one in card_differences(cards)}


@pytest.mark.slow
def test_two_equal_evaluations_have_equal_cards_and_other_conditions_show(tmp_path: Path) -> None:
    first = card(tmp_path / "a")
    calibration = json.loads((tmp_path / "a" / "calibration-test.json").read_text())
    assert calibration["n"] == sum(one.answer is not None for one in read_record(tmp_path / "a").questions) > 0
    assert (tmp_path / "a" / "calibration-test.svg").exists()
    assert json.loads(json.dumps(first)) == first
    assert {"stage", "policy", "data", "prompt", "protocol", "agent_tools", "rollout", "numerics"} <= first.keys()
    assert first["policy"]["checkpoint"] is None
    assert sum(first["data"][0]["data_sources"].values()) == 12
    assert first["agent_tools"] == [{"class": "tests.runs.Oracle", "name": "search"}]
    assert differing(first, card(tmp_path / "b")) == set()
    limits = EpisodeLimits(**(vars(LIMITS) | {"turns": 5}))
    other = card(tmp_path / "c", eval_limits=limits, eval_sampling=SamplingParams(temperature=0.5), seed=3)
    expected = {"rollout.limits.turns", "rollout.sampling.temperature", "rollout.seed"}
    assert differing(first, other) == expected


@pytest.mark.slow
def test_the_same_questions_in_another_file_are_the_same_data(tmp_path: Path) -> None:
    first = card(tmp_path / "a")
    run = make_run(tmp_path / "b", EvaluationTable(), sampler=scripted(answers))
    run.data.sources["test"] = DataSource("llds:quickstart/train.jsonl", limit=11)
    run.trainer.test(run.module, run.data, verbose=False)
    changed = differing(first, read_record(tmp_path / "b").card)
    assert {"data.0.questions_sha256", "data.0.limit", "data.0.questions"} <= changed
    assert "data.0.sha256" not in changed


@pytest.mark.slow
def test_a_checkpoint_and_the_folder_exported_from_it_are_the_same_weights(tmp_path: Path) -> None:
    trained = make_run(tmp_path / "a", EvaluationTable(), sampler=scripted(answers)).fit()
    trained.module.save_pretrained(tmp_path / "policy")
    checkpoint = str(sorted((tmp_path / "a" / "checkpoints").iterdir())[-1])
    trained.trainer.test(trained.module, trained.data, ckpt_path=checkpoint, verbose=False)
    exported = make_run(
        tmp_path / "b", EvaluationTable(), sampler=scripted(answers), module={"policy": str(tmp_path / "policy")}
    )
    exported.trainer.test(exported.module, exported.data, verbose=False)
    initial = card(tmp_path / "c")
    first, second = read_record(tmp_path / "a").card["policy"], read_record(tmp_path / "b").card["policy"]
    assert first["weights_sha256"] == second["weights_sha256"] != initial["policy"]["weights_sha256"]
    assert (first["checkpoint"], first["iteration"]) == (checkpoint, 2)
    assert list_records(tmp_path / "a")[0].name.endswith("-test-iteration-000002")


def test_the_hash_of_weights_depends_on_names_types_shapes_and_values_alone() -> None:
    expected = weights_hash(WEIGHTS.items())
    assert weights_hash(reversed(WEIGHTS.items())) == expected
    assert weights_hash((name, value.clone().t().contiguous().t()) for name, value in WEIGHTS.items()) == expected
    others = [
        {**WEIGHTS, "a": WEIGHTS["a"] + 1e-6},
        {**WEIGHTS, "a": WEIGHTS["a"].view(3, 2)},
        {**WEIGHTS, "b": WEIGHTS["b"].to(torch.float16)},
        {"a": WEIGHTS["a"], "c": WEIGHTS["b"]},
        {"a": WEIGHTS["a"]},
    ]
    assert expected not in {weights_hash(weights.items()) for weights in others}


def test_ranks_that_write_nothing_gather_all_weights_and_hash_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hash_on_first_rank(WEIGHTS.items()) == weights_hash(WEIGHTS.items())
    monkeypatch.setattr("llds.modules.policy.weights.rank", lambda: 1)
    left = iter(WEIGHTS.items())
    assert hash_on_first_rank(left) == ""
    assert list(left) == []


def test_failures_are_said_and_count_as_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def script(iteration: int, trajectory: int, turn: int) -> str | Exception:
        return SamplerError("the engine is down") if trajectory == 3 else answers(iteration, trajectory, turn)

    run = make_run(tmp_path, EvaluationTable(), sampler=scripted(script))
    run.trainer.test(run.module, run.data, verbose=False)
    failed = [question for question in read_record(tmp_path).questions if question.status == "failed"]
    assert [(question.answer, question.failure) for question in failed] == [(None, "the engine is down")]
    assert "1 of 12 trajectories failed and count as wrong; the first: the engine is down" in caplog.text


VALIDATION = DataSource("llds:quickstart/validation.jsonl", limit=5)


@pytest.mark.parametrize("stage", ["test", "validate"])
def test_results_are_printed_and_written(tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, EvaluationTable(), sampler=scripted(answers), validation=VALIDATION)
    getattr(run.trainer, stage)(run.module, run.data, verbose=False)
    [folder] = list_records(tmp_path)
    result = json.loads((folder / "results.json").read_text())["all_questions"]
    assert (result["searches"], result["failed"], result["hit_rate"]) == (1.0, 0, result["hit_rate"])
    assert result["n"] == len(read_record(folder).questions) == (12 if stage == "test" else 5)
    assert folder.name.endswith(f"-{stage}-{Path(tiny_policy()).name}")
    shown = capsys.readouterr().out
    assert f"Results of llds {stage}" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_validation_during_training_prints_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, EvaluationTable(), iterations=1, sampler=scripted(answers), validation=VALIDATION).fit()
    assert "Results of" not in capsys.readouterr().out
    assert list_records(tmp_path) == []
    assert any("val/exact_match" in row for row in rows(tmp_path))
