"""Trajectories as a run writes them: the very tokens, and what the updates did to each."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from llds.callbacks import TrajectoryLog
from llds.callbacks.trajectory_log.file import TrajectoryUpdate, trajectory_record
from llds.errors import ConfigurationError
from llds.modules.policy.tokenizer import load_tokenizer
from llds.rewards import Reward
from llds.types import Action, Prompt, SamplingParams, ToolCall, Trajectory, Turn
from tests.runs import POLICY, answers, make_run, scripted


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


@pytest.mark.slow
def test_trajectories_are_written_with_the_very_tokens(tmp_path: Path) -> None:
    log = TrajectoryLog(every_n_iterations=2, max_trajectories=3)
    run = make_run(tmp_path, log, iterations=4, sampler=scripted(answers)).fit()
    files = sorted((tmp_path / "trajectories").iterdir())
    assert [file.name for file in files] == ["iteration-000002.jsonl.gz", "iteration-000004.jsonl.gz"]
    records = read(files[0])
    assert len(records) == 3
    tokenizer = run.module.tokenizer
    for number, record in enumerate(records):
        search, answer = record["turns"]
        assert answer["action"] == tokenizer.decode(answer["action_ids"]) == f"<answer> 1 {number} </answer>"
        assert "Ghanaian" in tokenizer.decode(search["observation_ids"])
        assert search["document_ids"] == ["GH-demonym"]
        assert (record["status"], record["reward"]) == ("answered", float(number == 0))
        assert record["question"] in tokenizer.decode(record["prompt_ids"])


class Rescore(Callback):
    """Keeps what each iteration's updates did to the log-probs of all its tokens."""

    def __init__(self) -> None:
        self.changes: list[list[list[float]]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Score them once more."""
        tensors = batch.policy_batch
        change = pl_module.score(pl_module.policy, tensors) - tensors.old_log_probs
        self.changes.append([row[mask].tolist() for row, mask in zip(change, tensors.action_mask, strict=True)])


@pytest.mark.slow
def test_trajectories_say_what_the_updates_did_to_each_token(tmp_path: Path) -> None:
    truth = Rescore()
    make_run(tmp_path, truth, TrajectoryLog(max_trajectories=None), iterations=2, sampler=scripted(answers)).fit()
    for path, expected in zip(sorted((tmp_path / "trajectories").iterdir()), truth.changes, strict=True):
        for record, changes in zip(read(path), expected, strict=True):
            found = [change for turn in record["turns"] for change in turn["log_prob_changes"]]
            assert found == pytest.approx(changes, abs=2e-6)
            assert record["advantage"] == pytest.approx(0, abs=1e-6) or (record["advantage"] > 0) == (
                record["reward"] > 0
            )
            for turn in record["turns"]:
                assert len(turn["action_tokens"]) == len(turn["action_ids"])
                assert "".join(turn["action_tokens"]) == turn["action"]
    assert any(abs(value) > 1e-3 for value in truth.changes[0][0])  # of the first mini-batch's trajectories, too


@pytest.mark.slow
def test_groups_with_right_and_wrong_answers_are_scored_once_more_and_written_first(tmp_path: Path) -> None:
    make_run(
        tmp_path,
        TrajectoryLog(max_trajectories=10),
        iterations=1,
        sampler=scripted(answers),
        rollout={"reward": SecondGroup(), "group_size": 8},
    ).fit()
    [path] = (tmp_path / "trajectories").iterdir()
    measured = ["log_prob_changes" in record["turns"][0] for record in read(path)]
    assert measured == [False] * 2 + [True] * 8
    assert all("advantage" in record for record in read(path))


class SecondGroup(Reward):
    """Only the second group has right and wrong answers."""

    correct_from = 1.0

    def __call__(self, trajectory: Trajectory) -> float:
        """Score."""
        return float(trajectory.index >= 12)


def test_an_action_of_one_token_is_recorded_as_one() -> None:
    tokenizer = load_tokenizer(POLICY)
    [closing] = tokenizer.encode("</answer>", add_special_tokens=False)
    two = tokenizer.encode("<answer> Ghana", add_special_tokens=False)
    calls = (ToolCall("buy", {"item": "tea", "count": 2}),)
    actions = (Action("invalid", reason="no opening tag"), Action("tool", "buy", calls=calls))
    turns = [Turn(ids, [0.0] * len(ids), "stop", action) for ids, action in zip(([closing], two), actions, strict=True)]
    trajectory = Trajectory(Prompt("p", "?", ("a",)), "g", 0, SamplingParams(), turns=turns)
    record = trajectory_record(trajectory, tokenizer, TrajectoryUpdate(0.5, [0.1] * (1 + len(two))))
    assert record["turns"][0]["action_tokens"] == ["</answer>"]
    assert record["turns"][0]["reason"] == "no opening tag"
    assert record["turns"][1]["calls"] == [{"name": "buy", "arguments": {"item": "tea", "count": 2}}]
    for turn in record["turns"]:
        assert len(turn["action_tokens"]) == len(turn["log_prob_changes"]) == len(turn["action_ids"])
        assert "".join(turn["action_tokens"]) == turn["action"]


def test_predictions_hold_every_question_once_in_order(tmp_path: Path) -> None:
    run = make_run(tmp_path, TrajectoryLog(), sampler=scripted(answers))
    for _ in range(2):  # the second does not overwrite the first
        run.trainer.predict(run.module, run.data)
    first, second = sorted((tmp_path / "evaluation").iterdir())
    assert {path.name for path in first.iterdir()} == {"card.json", "trajectories.jsonl.gz"}
    for folder in (second, first):
        records = read(folder / "trajectories.jsonl.gz")
        assert [one["prompt_id"] for one in records] == [prompt.prompt_id for prompt in run.data.prompts["predict"]]
    record, tokenizer = records[1], run.module.tokenizer
    search, answer = record["turns"]
    assert record["prompt"] == tokenizer.decode(record["prompt_ids"])
    assert (search["name"], search["content"], search["document_ids"]) == ("search", "demonym 1", ["GH-demonym"])
    assert (answer["kind"], answer["content"], record["answer"]) == ("answer", "0 1", "0 1")
    assert len(search["behavior_log_probs"]) == len(search["action_ids"])
    assert (record["group_id"], record["policy_version"]) == ("1-0-1", 0)
    assert json.loads((first / "card.json").read_text())["stage"] == "predict"


def test_predictions_that_are_interrupted_are_kept(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_predict_batch_start(self, *args: Any) -> None:
            if args[3] == 1:  # number of the batch
                raise RuntimeError

    run = make_run(tmp_path, TrajectoryLog(), Stop(), sampler=scripted(answers))
    run.data.eval_batch_size = 5
    with pytest.raises(RuntimeError):
        run.trainer.predict(run.module, run.data)
    [folder] = (tmp_path / "evaluation").iterdir()
    assert [path.name for path in folder.iterdir()] == ["trajectories-interrupted.jsonl.gz"]
    assert len(read(folder / "trajectories-interrupted.jsonl.gz")) == 5


@pytest.mark.parametrize("settings", [{"every_n_iterations": 0}, {"max_trajectories": 0}])
def test_logs_of_nothing_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        TrajectoryLog(**settings)
