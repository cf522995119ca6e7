"""What an incident leaves, and that it is there whole or not at all."""

import csv
import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from llds.callbacks import CollapseMonitor
from llds.callbacks.collapse.incidents import decision
from llds.callbacks.collapse.worst_trajectories import worst_trajectories
from llds.callbacks.ladder import CutLearningRate, SaveCheckpoint, Warn, When
from llds.callbacks.trajectory_log.file import TrajectoryUpdate
from llds.monitor import Diagnosis, RewardFall, Symptom
from llds.types import Prompt, SamplingParams, Trajectory
from tests.runs import Run, answers, make_run, scripted
from tests.scripted_detector import ScriptedDetector

ALARM = When("alarm")


def troubled(folder: Path, **settings: Any) -> Run:
    """A training of four iterations with an alarm at the third."""
    monitor = CollapseMonitor(ladder=[Warn(ALARM), SaveCheckpoint(ALARM), CutLearningRate(when=ALARM)], **settings)
    monitor.detector = ScriptedDetector({3: "alarm"})
    run = make_run(folder, iterations=4, sampler=scripted(answers))
    run.trainer.callbacks.insert(-1, monitor)  # type: ignore[attr-defined]
    return run


@pytest.mark.slow
def test_the_folder_has_what_is_needed_to_understand_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("trainer: {}\n")
    run = troubled(tmp_path, incident_iterations=2, incident_trajectories=3)
    with pytest.warns(UserWarning, match="Iteration 3: alarm") as caught:
        run.fit()
    [line] = [str(one.message) for one in caught if "Iteration 3" in str(one.message)]
    [folder] = (tmp_path / "incidents").iterdir()
    assert folder.name == "iteration-000003-cut-learning-rate"
    assert line.endswith(f"Done: kept the state of the moment; cut the learning rate to 0.0005, 0.5 of what is "
                         f"configured. ({folder})")  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint.ckpt", "config.yaml", "decision.md", "signals.csv", "trajectories.jsonl.gz",
    }  # fmt: skip
    with (folder / "signals.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["iteration"] for row in table] == ["2.0", "3.0"]
    assert float(table[-1]["collapse/level"]) == 3
    with gzip.open(folder / "trajectories.jsonl.gz", "rt") as lines:
        records = [json.loads(line) for line in lines]
    assert len(records) == 3
    turn = records[0]["turns"][0]
    assert len(turn["log_prob_changes"]) == len(turn["action_tokens"]) == len(turn["action_ids"])
    words = (folder / "decision.md").read_text()
    assert "- cut the learning rate to 0.0005" in words
    assert "Mend it." in words


@pytest.mark.slow
def test_a_checkpoint_of_an_incident_can_be_gone_on_from(tmp_path: Path) -> None:
    troubled(tmp_path / "a").fit()
    [path] = (tmp_path / "a" / "incidents").glob("*/checkpoint.ckpt")
    run = make_run(tmp_path / "b", iterations=4, sampler=scripted(answers))
    run.trainer.fit(run.module, datamodule=run.data, ckpt_path=str(path))
    assert run.module.iteration == 4


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_a_warning_and_the_rungs_act(tmp_path: Path) -> None:
    (tmp_path / "incidents").write_text("a file")
    run = troubled(tmp_path)
    with pytest.warns(UserWarning, match="No folder of the incident") as caught:
        run.fit()
    lines = [str(one.message) for one in caught if "Iteration 3" in str(one.message)]
    assert "cut the learning rate" in lines[0]
    assert "kept the state" not in lines[0]
    assert run.module.iteration == 4


@pytest.mark.slow
def test_what_breaks_while_the_folder_is_filled_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> str:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("llds.callbacks.collapse.incidents.decision", fail)
    run = troubled(tmp_path)
    with pytest.warns(UserWarning, match="ZeroDivisionError: a bug"):
        run.fit()
    assert list((tmp_path / "incidents").iterdir()) == []
    assert run.module.iteration == 4


@pytest.mark.slow
def test_no_folder_is_written_where_none_is_wanted(tmp_path: Path) -> None:
    troubled(tmp_path, max_incidents=0).fit()
    assert not (tmp_path / "incidents").exists()


@pytest.mark.slow
def test_a_healthy_run_says_and_leaves_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=2, sampler=scripted(answers))
    run.trainer.callbacks.insert(-1, CollapseMonitor())  # type: ignore[attr-defined]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit()
    assert not [one for one in caught if "Iteration" in str(one.message)]
    assert not (tmp_path / "incidents").exists()


def test_the_decision_in_words() -> None:
    symptom = Symptom("entropy_surges", "policy/entropy", 28, 27, 0.8, "entropy is 1.30 times its start")
    found = Diagnosis(
        31, "acceleration", "alarm", RewardFall(0.5, 0.3, 6.0), 0.5, (symptom,), since=29, cause="lld_spiral",
        evidence=("likelihood falls",), advice="Lower the learning rate.",
    )  # fmt: skip
    assert decision(found, ["raised lambda from 0.1 to 0.2"]) == (
        "# Iteration 31: alarm\n\n- Phase: III: collapse accelerates\n- Since: iteration 29\n"
        "- Reward: from 0.5 down to 0.3, smoothed (6.0 standard errors)\n"
        "- Cause: lld spiral\n- Confidence: 50% of the signs of collapse that its signals can show\n\n"
        "## What points to the cause\n\n- likelihood falls\n\n## What lasts, strongest first\n\n"
        "- entropy is 1.30 times its start (`policy/entropy`, since iteration 28, strength 0.80)\n\n"
        "## What the ladder did\n\n- raised lambda from 0.1 to 0.2\n\n## Advice\n\nLower the learning rate.\n"
    )


def test_the_worst_are_the_displaced_then_the_unrewarded_and_failed_ones_last() -> None:
    def trajectory(index: int, reward: float, status: Any = "answered") -> Trajectory:
        prompt = Prompt("p", "q", ("a",))
        return Trajectory(prompt, "g", index, SamplingParams(), status=status, reward=reward, is_correct=reward > 0)

    right_up, right_down, right_far_down = trajectory(0, 1.0), trajectory(1, 1.0), trajectory(2, 1.0)
    wrong_up, wrong_down, failed = trajectory(3, 0.0), trajectory(4, 0.0), trajectory(5, 0.0, "failed")
    all_six = [right_up, right_down, right_far_down, wrong_up, wrong_down, failed]
    changes = {0: [0.1, 0.1], 1: [-0.1, 0.0], 2: [-0.3, -0.1], 3: [0.2], 4: [-0.2]}
    updates = {id(one): TrajectoryUpdate(0.0, changes[one.index]) for one in all_six if one.index in changes}
    assert [one.index for one in worst_trajectories(all_six, updates, 6)] == [2, 1, 3, 4, 0, 5]
    assert [one.index for one in worst_trajectories(all_six, {}, 3)] == [3, 4, 0]
