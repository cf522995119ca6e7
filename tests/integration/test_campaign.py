"""A minute of the breaking campaign, every kind of fault a few times: with another seed in each run of the tests."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tools.campaign.__main__ import KINDS


@pytest.mark.slow
def test_a_minute_of_every_fault_loses_nothing(tmp_path: Path) -> None:
    seed, stored = random.SystemRandom().randrange(10_000), tmp_path / "table.json"
    command = [sys.executable, "-m", "tools.campaign", "--minutes", "1", "--seed", str(seed), "--store", str(stored)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"seed {seed}\n{result.stdout}\n{result.stderr[-3000:]}"
    tries = {row["kind"] for row in json.loads(stored.read_text()) if row["tries"]}
    assert tries == KINDS.keys()
