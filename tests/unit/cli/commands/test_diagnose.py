"""``llds diagnose``: what it prints, its JSON, its exit status, and that it needs neither torch nor Lightning."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llds.cli import main
from llds.monitor import LEVELS
from llds.monitor.causes import NAMES

ROOT = Path(__file__).parents[4]
RECORDINGS = ROOT / "tests" / "recordings"
EXAMPLES = re.findall(r"```\n\$ llds diagnose (\S+)\n(.*?)```", (ROOT / "docs" / "diagnose.md").read_text(), re.DOTALL)


def write_run(path: Path, falls: bool, iterations: int = 60) -> Path:
    """A run of llds whose reward falls at iteration 40, or does not."""
    noise = random.Random(0)
    lines = ["iteration,reward/mean,policy/entropy,train/grad_norm,time/total_s"]
    for at in range(iterations):
        late = falls and at >= 40
        reward = (0.1 if late else 0.5) + noise.gauss(0, 0.02)
        entropy, norm = (2.0 if late else 1.0) + noise.gauss(0, 0.02), (9.0 if late else 1.0) * noise.uniform(0.9, 1.1)
        lines.append(f"{at},{reward},{entropy},{norm},1.0")
    path.mkdir(parents=True, exist_ok=True)
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    return path


def exit_status(*args: str) -> int | str | None:
    try:
        main(["diagnose", *args])
    except SystemExit as stop:
        return stop.code
    return 0


def test_a_healthy_run_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(str(write_run(tmp_path, falls=False))) == 0
    printed = capsys.readouterr().out
    assert "nothing is wrong that can be seen" in printed or "no trend" in printed or "neither rose" in printed
    assert "60 iterations (0-59)" in printed
    assert "cause" not in printed


def test_a_collapsed_run_exits_with_2_and_says_what_why_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(str(write_run(tmp_path, falls=True))) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert "alarm since iteration 4" in printed
    assert "collapsed" in printed
    for word in ("judged from", "cause", "moved first", "agreement", "advice", "standard errors"):
        assert word in printed


def test_json_has_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--json", str(write_run(tmp_path, falls=True))) == 2
    [found] = json.loads(capsys.readouterr().out)
    assert (found["framework"], found["iterations"]) == ("llds", 60)
    assert found["diagnosis"]["level"] == "alarm"
    assert found["diagnosis"]["phase"] == "collapsed"
    assert found["ignored"] == ["time/total_s"]
    assert [stretch["phase"] for stretch in found["phases"]][-1] == "collapsed"
    [alarm] = found["alarms"]
    assert 40 <= alarm["start"] <= 46
    assert alarm["end"] == 59


def test_several_logs_are_a_table_with_the_worst_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    healthy, collapsed = write_run(tmp_path / "a", falls=False), write_run(tmp_path / "b", falls=True)
    assert exit_status(str(healthy), str(collapsed)) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["log", "rows", "verdict", "cause", "first", "to", "move"]
    assert "alarm since iteration 4" in lines[1]
    assert "no trend" in "".join(lines[2:])


def test_a_log_that_cannot_be_read_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []
    monkeypatch.setattr("llds.cli.commands.diagnose.command._explain", lambda paths, page: drawn.append(paths))
    strange = tmp_path / "strange.log"
    strange.write_text("nothing that is a metric\n")
    healthy, collapsed = write_run(tmp_path / "a", falls=False), write_run(tmp_path / "b", falls=True)
    for log, status in ((healthy, 1), (collapsed, 2)):
        assert exit_status("--json", "--explain", "why.html", str(strange), str(log)) == status
        said = capsys.readouterr()
        assert [str(log) in one["path"] for one in json.loads(said.out)] == [True]
        assert said.err.startswith("llds: ")
        assert "strange.log" in said.err
    assert drawn == [[str(healthy)], [str(collapsed)]]
    both = exit_status(str(strange), str(tmp_path / "missing.csv"))
    assert isinstance(both, str)
    assert both.count("llds: ") == 2


def test_json_fits_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    logs = [
        write_run(tmp_path / "long", True),
        write_run(tmp_path / "short", False, 9),
        RECORDINGS / "A_lam0_s0.csv.gz",
    ]
    exit_status("--json", *map(str, logs))
    schema = json.loads((ROOT / "docs" / "diagnose.schema.json").read_text())
    jsonschema.validate(json.loads(capsys.readouterr().out), schema)
    assert set(schema["items"]["properties"]["diagnosis"]["properties"]["cause"]["enum"]) == {*NAMES, None}
    assert schema["items"]["properties"]["diagnosis"]["properties"]["level"]["enum"] == list(LEVELS)


def test_a_log_that_grows_is_watched_until_ctrl_c(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (write_run(tmp_path / "whole", falls=True) / "metrics.csv").read_text().splitlines(keepends=True)
    log = tmp_path / "metrics.csv"
    log.write_text("".join(whole[:4]))
    looks = iter([30, 50, 50, 61])

    def sleep(seconds: float) -> None:
        rows = next(looks, None)
        if rows is None:
            raise KeyboardInterrupt
        log.write_text("".join(whole[:rows]))

    monkeypatch.setattr("llds.cli.commands.diagnose.watch.time.sleep", sleep)
    assert exit_status("--watch", "5", str(log)) == 2
    lines = capsys.readouterr().out.splitlines()
    assert "iteration 2: too short to say" in lines[0]
    assert "iteration 28: reward neither rose nor fell" in lines[1]
    assert "iteration 48: alarm since iteration 4" in lines[2]
    assert len(lines) <= 4


def test_explain_draws_the_curves_with_what_it_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "why.html"
    assert exit_status("--explain", str(page), str(write_run(tmp_path, falls=True))) == 2
    text = page.read_text()
    assert "alarm since iteration" in text
    assert "What moved, in order: entropy" in text
    assert "Judged from reward, entropy, gradient; no likelihood" in text


def test_verbose_lists_the_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exit_status("-v", str(write_run(tmp_path, falls=False)))
    printed = " ".join(capsys.readouterr().out.split())
    assert "signals policy/entropy, reward/mean, train/grad_norm" in printed
    assert "ignored time/total_s" in printed


def test_what_cannot_be_judged_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.csv").write_text("step,policy/entropy\n1,0.5\n2,0.5\n")
    assert exit_status(str(tmp_path)) == 3
    assert "no reward among the columns" in capsys.readouterr().out
    (tmp_path / "metrics.csv").write_text("step,reward/mean\n1,0.5\n2,0.6\n3,0.7\n")
    assert exit_status(str(tmp_path)) == 3
    assert "too short to say: 3 rows" in capsys.readouterr().out
    assert exit_status("--json", str(tmp_path)) == 3
    [found] = json.loads(capsys.readouterr().out)
    assert (found["verdict"]["kind"], found["diagnosis"]["phase"], found["phases"]) == ("too_short", None, [])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Expected `llds diagnose PATH"),
        (["--jsn", "x"], "Expected `llds diagnose PATH"),
        (["no/where"], "no such file or folder"),
        (["--warmup", "1", "no/where"], "Expected `--warmup` >= 3, got 1"),
        (["--watch", "0", "no/where"], "Expected `--watch` > 0 seconds, got 0"),
        (["--watch", "9", "--json", "no/where"], "Expected `--watch` alone, which prints lines, got `--json`"),
    ],
)
def test_bad_input_is_one_line_and_not_the_status_of_an_alarm(args: list[str], message: str) -> None:
    status = exit_status(*args)  # a text makes Python print it and exit with 1
    assert isinstance(status, str)
    assert status.startswith("llds: ")
    assert message in status
    assert "\n" not in status


@pytest.mark.skipif(not (ROOT / "../shared/runs").is_dir(), reason="the recorded runs are not here (../shared/runs)")
@pytest.mark.parametrize(("path", "shown"), EXAMPLES)
def test_the_page_shows_what_is_printed(
    path: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    exit_status(path)
    printed = [line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines()]
    assert printed == shown.rstrip().splitlines()


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 2


def test_help_tells_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--help") == 0
    printed = capsys.readouterr().out
    assert "2 an alarm" in printed
    assert "3 nothing could be judged" in printed
    assert "1 bad input" in printed


@pytest.mark.slow
def test_a_reader_that_stops_early_sees_no_traceback(tmp_path: Path) -> None:
    runs = " ".join([str(write_run(tmp_path, falls=True))] * 40)
    command = f"{sys.executable} -m llds diagnose --json {runs} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("[\n", "")


def test_it_needs_neither_torch_nor_lightning(tmp_path: Path) -> None:
    code = (
        "import sys; from llds.cli import main; main(['diagnose', sys.argv[1]]); "
        "heavy = {'torch', 'lightning', 'transformers', 'numpy', 'tensorboard'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(write_run(tmp_path, falls=False))], check=True, timeout=60)
