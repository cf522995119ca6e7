"""The worked example of a tool of one's own: `conf/agents/`."""

import gzip
import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from llds.cli import main
from llds.paths import resolve_path
from tests.scripted_sampler import ScriptedSampler

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "conf" / "agents"
SMALL = ("--data.iterations", "2", "--data.batch_size", "4", "--model.optimization.mini_batch_size", "2")


class ComputingSampler(ScriptedSampler):
    """Half of its trajectories compute 17 * 23 before they answer, the others answer at once."""

    def __init__(self) -> None:
        tokenizer = AutoTokenizer.from_pretrained(resolve_path("llds:quickstart/policy"))
        super().__init__(tokenizer, lambda trajectory, turn: self.action(trajectory % 2, turn))

    def action(self, member: int, turn: int) -> str:
        """The text of an action."""
        computes = member == 0 and turn == 0
        return "<calculate>17 * 23</calculate>" if computes else f"<answer>{391 if turn else 0}</answer>"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Four times the same question."""
    file = tmp_path / "questions.jsonl"
    rows = [{"id": str(number), "question": "What is 17 * 23?", "golden_answers": ["391"]} for number in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def fit(monkeypatch: pytest.MonkeyPatch, folder: Path, *args: str) -> list[dict]:
    """Train the agent of the example without any retriever; its trajectories."""
    monkeypatch.chdir(folder.parent)
    configuration = ("-c", "llds:quickstart", "-c", "llds:agents/calculator")
    main(["fit", *configuration, *SMALL, "--rollout.group_size", "2", "--trainer.default_root_dir", str(folder), *args])
    files = sorted((folder / "trajectories").iterdir())
    return [json.loads(line) for file in files for line in gzip.open(file, "rt")]


@pytest.mark.slow
def test_an_agent_with_a_calculator_trains_without_a_retriever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trajectories = fit(monkeypatch, tmp_path / "run")
    assert len(trajectories) == 16
    assert {trajectory["data_source"] for trajectory in trajectories} == {"arithmetic"}


@pytest.mark.slow
def test_what_the_calculator_computes_comes_back_and_is_worth_a_reward(
    tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = f"{ComputingSampler.__module__}.ComputingSampler"
    args = ("--data.train", str(questions), "--data.iterations", "1", "--rollout.sampler", sampler)
    trajectories = fit(monkeypatch, tmp_path / "run", *args)
    computing = [trajectory for trajectory in trajectories if len(trajectory["turns"]) == 2]
    assert len(computing) == len(trajectories) / 2
    assert {trajectory["turns"][0]["kind"] for trajectory in computing} == {"tool"}
    assert all("391" in trajectory["turns"][0]["observation"] for trajectory in computing)
    assert [trajectory["reward"] for trajectory in trajectories] == [
        1.0 if len(trajectory["turns"]) == 2 else 0.0 for trajectory in trajectories
    ]


def test_the_example_is_short_enough_to_copy() -> None:
    lines = [line for name in ("calculator.py", "calculator.yaml") for line in (AGENT / name).read_text().splitlines()]
    assert len(lines) <= 40
