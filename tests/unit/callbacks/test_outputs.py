"""What a run writes and shows: trajectories, predictions, tables, the exported policy, warnings, the progress line."""

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from llds.batches import RolloutBatch
from llds.callbacks import CollapseMonitor, EvaluationTable, ExportPolicy, RolloutProgressBar, RunReport, TrajectoryLog
from llds.callbacks.trajectory_log.file import TrajectoryUpdate, trajectory_record
from llds.data import DataSource
from llds.errors import ConfigurationError
from llds.evaluation import list_records, read_record
from llds.modules import LoRA, SearchAgentModule
from llds.modules.policy.tokenizer import load_tokenizer
from llds.monitor import read_metrics
from llds.rewards import Reward
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn
from tests.runs import POLICY, answers, by_iteration, make_run, rows, scripted, tiny_policy

VALIDATION = DataSource("llds:quickstart/validation.jsonl", limit=5)


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


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

    def __call__(self, trajectory: Trajectory) -> float:
        """Score."""
        return float(trajectory.index >= 12)


def test_an_action_of_one_token_is_recorded_as_one() -> None:
    tokenizer = load_tokenizer(POLICY)
    [closing] = tokenizer.encode("</answer>", add_special_tokens=False)
    two = tokenizer.encode("<answer> Ghana", add_special_tokens=False)
    turns = [Turn(ids, [0.0] * len(ids), "stop", Action("invalid")) for ids in ([closing], two)]
    trajectory = Trajectory(Prompt("p", "?", ("a",)), "g", 0, SamplingParams(), turns=turns)
    record = trajectory_record(trajectory, tokenizer, TrajectoryUpdate(0.5, [0.1] * (1 + len(two))))
    assert record["turns"][0]["action_tokens"] == ["</answer>"]
    for turn in record["turns"]:
        assert len(turn["action_tokens"]) == len(turn["log_prob_changes"]) == len(turn["action_ids"])
        assert "".join(turn["action_tokens"]) == turn["action"]


def test_a_report_is_there_when_a_run_ends(tmp_path: Path) -> None:
    make_run(tmp_path, RunReport(), TrajectoryLog(), iterations=2, sampler=scripted(answers)).fit()
    page = (tmp_path / "report.html").read_text()
    assert "iteration 2" in page
    assert "nats" in page
    assert not list(tmp_path.glob(".partial*"))


class ReportSeen(Callback):
    """Keeps after which iterations there was a page."""

    def __init__(self) -> None:
        self.after: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Look."""
        if (Path(trainer.default_root_dir) / "report.html").exists():
            self.after.append(pl_module.iteration)


@pytest.mark.parametrize(("expected", "after"), [(0.0, [2, 3]), (1e9, [])])
def test_a_report_is_written_while_a_run_trains_where_there_is_time_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: float, after: list[int]
) -> None:
    monkeypatch.setattr("llds.callbacks.report._SECONDS_OF_A_PAGE", expected)
    seen = ReportSeen()
    make_run(tmp_path, RunReport(every_n_iterations=2), seen, iterations=3, sampler=scripted(answers)).fit()
    assert seen.after == after
    assert (tmp_path / "report.html").exists()


def test_a_report_that_fails_never_ends_a_run(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir(parents=True)
    with pytest.warns(UserWarning, match="No report"):
        make_run(tmp_path, RunReport(every_n_iterations=1), iterations=2, sampler=scripted(answers)).fit()
    assert len(rows(tmp_path)) == 2
    with pytest.raises(ConfigurationError, match="every_n_iterations"):
        RunReport(every_n_iterations=0)
    with pytest.raises(ConfigurationError, match="share"):
        RunReport(share=0.0)


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


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_the_trained_policy_loads_in_plain_transformers(tmp_path: Path, lora: LoRA | None) -> None:
    run = make_run(tmp_path, ExportPolicy(), iterations=2, sampler=scripted(answers), module={"lora": lora}).fit()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    prompt = run.data.template.encode(run.data.prompts["train"][0], run.module.tokenizer)
    ids = torch.tensor([prompt.prompt_ids])
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").encode("a <search>") == run.module.tokenizer.encode(
        "a <search>"
    )
    with torch.no_grad(), run.module.policy.evaluating():
        expected = run.module.policy.model(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=0 if lora is None else 1e-5)
        initial = AutoModelForCausalLM.from_pretrained(run.module.policy_path, dtype=torch.float32)(ids).logits
        assert (expected - initial).abs().max() > 1e-4


def feed(monitor: CollapseMonitor, rewards: list[float], entropies: list[float]) -> tuple[list[float], list[str]]:
    """Judge iterations of these signals; returns the logged warnings and the words."""
    module, trainer = SearchAgentModule(POLICY), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    logged = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for reward, entropy in zip(rewards, entropies, strict=True):
            batch = RolloutBatch([])
            batch.metrics.hand_in("rollout", {"reward/mean": reward, "policy/entropy": entropy})
            module.iteration += 1
            monitor.on_train_batch_end(trainer, module, None, batch, 0)
            logged.append(batch.metrics["collapse/level"])
    return logged, [str(warning.message) for warning in caught]


def test_a_collapse_is_said_once_and_logged_in_every_iteration() -> None:
    healthy, falling = [0.5, 0.52] * 3, [0.2, 0.22] * 3
    logged, words = feed(CollapseMonitor(warmup=3, max_incidents=0), healthy + falling, [1.0] * 6 + [3.0] * 6)
    assert logged[:6] == [0.0] * 6
    assert logged[-4:] == [2.0] * 4
    assert [line.split(": ")[0] for line in words if "alarm" in line] == [f"Iteration {logged.index(2.0) + 1}"]
    assert len(words) <= 2


def test_a_monitor_that_resumes_says_nothing_again() -> None:
    first, second = (CollapseMonitor(warmup=3, max_incidents=0) for _ in range(2))
    feed(first, [0.5, 0.52] * 2 + [0.1, 0.12] * 2, [1.0] * 4 + [3.0] * 4)
    second.load_state_dict(first.state_dict())
    logged, words = feed(second, [0.1], [3.0])
    assert (logged, words) == ([2.0], [])


def test_the_level_is_one_metric_of_each_iteration_and_the_log_can_be_diagnosed(tmp_path: Path) -> None:
    make_run(tmp_path, CollapseMonitor(), iterations=3, sampler=scripted(answers)).fit()
    assert [row["collapse/level"] for row in by_iteration(tmp_path).values()] == ["0.0"] * 3
    assert len(rows(tmp_path)) == 3
    table = read_metrics(tmp_path)
    assert (table.framework, [iteration for iteration, _ in table.rows]) == ("llds", [1, 2, 3])
    unknown = [name for name in table.ignored if not name.startswith(("time/", "collapse/", "train/"))]
    assert unknown in ([], ["epoch"])  # every other column is in the vocabulary


def test_a_warm_up_without_a_baseline_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"collapse\.warmup"):
        CollapseMonitor(warmup=2)


@pytest.mark.parametrize("settings", [{"every_n_iterations": 0}, {"max_trajectories": 0}])
def test_logs_of_nothing_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        TrajectoryLog(**settings)


def test_the_bar_shows_the_iteration_that_has_just_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=1, sampler=scripted(answers)).fit()
    shown = RolloutProgressBar().get_metrics(run.trainer, run.module)
    assert (shown["reward"], shown["searches"]) == ("0.250", "1.000")
    assert float(shown["logp+"]) < 0
    assert len(shown["s"].split("/")) == 3
