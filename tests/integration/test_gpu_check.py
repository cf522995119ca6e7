"""The check of a GPU, with its sizes cut down, on a CPU: what it cannot do here it says, and the rest passes."""

import json
from pathlib import Path

import pytest

from tools import gpu_check


@pytest.mark.slow
@pytest.mark.nightly
def test_all_checks_pass_on_a_cpu_or_say_why_they_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--small", "--out", str(tmp_path / "checks.json")])
    status = gpu_check.main()
    found = json.loads((tmp_path / "checks.json").read_text())["checks"]
    assert status == 0, found
    assert {name for name, one in found.items() if one["outcome"] == "left out"} <= {"flash", "smollm2"}
    assert found.keys() == gpu_check.CHECKS.keys()
    assert found["flash"]["reason"] == "flash attention needs a GPU"
    assert "policy/behavior_gap_mean" in found["quickstart"]
    assert capsys.readouterr().out.count("| passed |") >= 7


def test_a_check_that_fails_keeps_no_other_from_running(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(card: gpu_check.Card) -> dict[str, str]:
        raise RuntimeError("CUDA error")

    def passes(card: gpu_check.Card) -> dict[str, str]:
        return {"figure": "1"}

    monkeypatch.setattr(gpu_check, "CHECKS", {"head": fails, "noise": passes})
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--small", "--only", "head", "noise"])
    assert gpu_check.main() == 1
    said = capsys.readouterr().out
    assert "| FAILED | reason: RuntimeError: CUDA error |" in said
    assert "| passed | figure: 1 |" in said
