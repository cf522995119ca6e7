"""``llds serve-retriever`` as a person starts and stops it."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from llds.retrieval import HTTPRetriever

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "llds", "serve-retriever"]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [pytest.param(signal.SIGINT, marks=pytest.mark.nightly), signal.SIGTERM])
def test_it_says_where_it_serves_and_stops_without_noise(stop: signal.Signals, tmp_path: Path) -> None:
    index = ("--retrieval.retriever.path", str(tmp_path / "index"))
    arguments = ["-c", "conf/quickstart.yaml", *index, "--port", "0", "--top_k", "2"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # it may be ignored here
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ChromaRetriever (fingerprint "), process.communicate()
        url = line.split(" at ")[1].split(",")[0]
        assert url.startswith("http://127.0.0.1:")
        with HTTPRetriever(url) as retriever:
            [[best, _]] = retriever.retrieve(["capital of France"], 2)
            assert best.text == "The capital of France is Paris."
        assert len(httpx.post(url, json={"queries": ["capital of France"]}).json()["result"][0]) == 2
        process.send_signal(stop)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "Stopped.\n")
        assert "Traceback" not in err  # there is how the index was built, and what it needs
        assert "Error" not in err
    finally:
        process.kill()
        process.communicate()
