"""A short cut of the breaking campaign, every kind of fault at least once; the nightly one has other seeds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.campaign.__main__ import KINDS


@pytest.mark.slow
def test_a_little_of_every_fault_loses_nothing(tmp_path: Path) -> None:
    stored = tmp_path / "table.json"
    command = [sys.executable, "-m", "tools.campaign", "--minutes", "0.5", "--seed", "0", "--store", str(stored)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr[-3000:]}"
    tries = {row["kind"] for row in json.loads(stored.read_text()) if row["tries"]}
    assert tries == set(KINDS)
