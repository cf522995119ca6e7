"""The launcher of several machines, rehearsed on this one: SLURM's commands, servers and trainer are stand-ins.

What stands between them is real: who is started where, that nobody trains before all servers answer, what the trainer
is told, and that servers end with it.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from llds.samplers.vllm.server.process import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None, reason="the launcher asks servers with curl"),
]
SLURM = Path(__file__).parents[2] / "conf" / "trainer" / "slurm"

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SERVER = """#!{python}
import http.server, os, sys, time
log = open("{folder}/servers", "a"); print(os.environ["CUDA_VISIBLE_DEVICES"], *sys.argv[1:], file=log, flush=True)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
time.sleep({delay})
if {answers}:
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()
"""
TRAINER = """#!/bin/bash
echo "$@" >"{folder}/trainer"
"""


def rehearse(folder: Path, *, answers: bool) -> subprocess.CompletedProcess[str]:
    """Run the sbatch file as SLURM would, on one machine with two servers."""
    (folder / "bin").mkdir()
    stubs = {
        "srun": SRUN,
        "scontrol": "#!/bin/bash\necho 127.0.0.1\n",
        "server": SERVER.format(python=sys.executable, folder=folder, delay=0.5, answers=answers),
        "trainer": TRAINER.format(folder=folder),
    }
    for name, text in stubs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "machine",
        "PYTHON": str(folder / "bin" / "server"),
        "LLDS": str(folder / "bin" / "trainer"),
        "RUN": str(folder / "run"),
        "SERVERS": "2",
        "SERVERS_WITHIN_S": "20" if answers else "2",
        "FIRST_PORT": str(free_port()),
        "LLDS_ARGUMENTS": "--data.iterations 7",
    }
    return subprocess.run(
        ["bash", str(SLURM / "train.sbatch")], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def left_of(folder: Path) -> list[str]:
    """Processes of the rehearsal that still run."""
    for _ in range(50):
        found = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if str(folder) in str(p.info["cmdline"])]
        if not found:
            return []
        time.sleep(0.1)
    return [" ".join(one) for one in found]


def test_servers_start_on_the_last_gpus_and_the_trainer_is_told_their_addresses(tmp_path: Path) -> None:
    done = rehearse(tmp_path, answers=True)
    assert done.returncode == 0, done.stderr
    servers = sorted((tmp_path / "servers").read_text().splitlines())
    assert [line.split()[0] for line in servers] == ["4", "5"]
    assert all("llds.samplers.vllm.server.serve models/Qwen2.5-7B --host 0.0.0.0" in line for line in servers)
    ports = [line.split("--port ")[1].split()[0] for line in servers]
    told = (tmp_path / "trainer").read_text()
    assert f"--rollout.sampler.urls [http://127.0.0.1:{ports[0]},http://127.0.0.1:{ports[1]}]" in told
    assert "--ckpt_path last --data.iterations 7" in told
    assert left_of(tmp_path) == []


def test_a_server_that_does_not_come_ends_the_job_before_anything_trains(tmp_path: Path) -> None:
    done = rehearse(tmp_path, answers=False)
    assert done.returncode == 1
    assert "Expected a vLLM server at http://127.0.0.1:" in done.stderr
    assert not (tmp_path / "trainer").exists()
    assert left_of(tmp_path) == []


def test_skypilot_finds_the_scripts_where_they_lie() -> None:
    run = yaml.safe_load((SLURM / "skypilot.yml").read_text())["run"]
    found = next(line for line in run.splitlines() if line.startswith("here="))
    listed = subprocess.run(["bash", "-ec", f'{found}; ls "$here"'], text=True, capture_output=True, check=True)
    assert {"servers.sh", "urls.sh"} <= set(listed.stdout.split())


@pytest.mark.parametrize("name", ["servers.sh", "urls.sh", "train.sbatch", "skypilot.yml"])
def test_every_launcher_is_right_in_its_syntax(name: str) -> None:
    text = (SLURM / name).read_text()
    script = yaml.safe_load(text)["run"] if name.endswith(".yml") else text
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert checked.stderr == ""
