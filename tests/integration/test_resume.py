"""Signals at random moments, in processes of their own, through the command line."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = {
    "--data.batch_size": "4",
    "--model.optimization.mini_batch_size": "2",
    "--rollout.group_size": "4",
}


OVERSAMPLED = {"--model.llds_penalty.anchor": "lagged", "--rollout.oversampling.max_factor": "2.0"}
OVERLAPPED = {"-c": "conf/rollout/overlap.yaml"}


@pytest.mark.slow
@pytest.mark.parametrize(("signals", "settings"), [(["KILL"], OVERSAMPLED), (["TERM", "INT"], OVERLAPPED)])
def test_a_run_that_was_stopped_equals_one_that_was_not(
    tmp_path: Path, corpus: Path, signals: list[str], settings: dict[str, str]
) -> None:
    seed, kills = random.SystemRandom().randrange(1000), len(signals)
    tool = [sys.executable, "tools/kill_and_resume.py", "--iterations", "4", "--seed", str(seed)]
    tool += ["--kills", str(kills), "--signals", *signals]
    settings = SMALL | settings | {"--retrieval.retriever.corpus": str(corpus)}
    arguments = [part for setting in settings.items() for part in setting]
    result = subprocess.run(
        [*tool, "--folder", str(tmp_path / "runs"), "--", *arguments], capture_output=True, text=True
    )
    logs = "\n".join(path.read_text()[-2000:] for path in (tmp_path / "runs").glob("*.log"))
    assert result.returncode == 0, f"seed {seed}\n{result.stdout}\n{result.stderr}\n{logs}"
    assert f"{kills} kills, 4 iterations" in result.stdout
    assert "equal to the bit" in result.stdout
