"""Commands and webhooks: what they are told, and that nothing they do holds up or ends a run."""

import json
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from llds.callbacks.ladder import Incident, Log, RunCommand, Rung, Warn, Webhook
from llds.errors import ConfigurationError
from llds.monitor import Diagnosis


def incident(folder: Path | None) -> Incident:
    found = Diagnosis(31, "acceleration", "alarm", since=29, cause="lld_spiral")
    return Incident(Path("runs/x"), folder, found, ("cut the learning rate",), "Iteration 31: alarm")


def said(rung: Rung, told: Incident) -> tuple[list[str], float]:
    """What was said when the rung had announced and closed, and the seconds that `announce` took."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        started = time.perf_counter()
        rung.announce(told)
        seconds = time.perf_counter() - started
        rung.close()
    return [str(one.message) for one in caught], seconds


@contextmanager
def service(status: int = 200, wait: threading.Event | None = None) -> Iterator[tuple[str, list[Any]]]:
    """A web service on a free port of this machine, and what it was sent."""
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, self.headers["Content-Type"], json.loads(body)))
            if wait is not None:
                wait.wait(10)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", received
    finally:
        if wait is not None:
            wait.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_webhook_gets_the_incident_without_a_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing listens there
    with service() as (url, received):
        assert said(Webhook(url), incident(tmp_path))[0] == []
    [(path, content, body)] = received
    assert (path, content) == ("/hook", "application/json")
    assert body["text"] == body["message"] == "Iteration 31: alarm"
    assert (body["run"], body["iteration"], body["incident"]) == ("runs/x", 31, str(tmp_path))
    assert body["done"] == ["cut the learning rate"]
    assert (body["diagnosis"]["cause"], body["diagnosis"]["level"]) == ("lld_spiral", "alarm")


def test_a_webhook_that_refuses_leaves_one_warning_and_no_path_of_it() -> None:
    with service(500) as (url, received):
        [line], _ = said(Webhook(url), incident(None))
    assert received[0][2]["incident"] is None
    assert "Webhook at 127.0.0.1: HTTPError" in line
    assert line.endswith("The run goes on.")
    assert "hook" not in line.removeprefix("Webhook")


def test_a_webhook_that_hangs_is_not_waited_for_and_ends_at_its_time_limit() -> None:
    with service(wait=threading.Event()) as (url, _):
        [line], seconds = said(Webhook(url, timeout_s=0.3), incident(None))
    assert "TimeoutError" in line
    assert seconds < 0.25


def test_a_command_gets_the_incident_and_its_output_is_kept(tmp_path: Path) -> None:
    assert said(RunCommand("cat > got.json; pwd; echo oops >&2"), incident(tmp_path))[0] == []
    log = (tmp_path / "command.log").read_text().splitlines()
    assert log[1] == "oops"
    got = Path(log[0]) / "got.json"
    assert json.loads(got.read_text())["done"] == ["cut the learning rate"]
    got.unlink()


@pytest.mark.parametrize("command", ["exit 7", "no-such-command-here"])
def test_a_command_that_fails_leaves_one_warning(tmp_path: Path, command: str) -> None:
    [line], _ = said(RunCommand(command), incident(tmp_path))
    assert f"Command `{command}`" in line
    assert "exit status" in line


@pytest.mark.slow
def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "late"
    rung = RunCommand(f"(sleep 1.5; touch {mark}) & sleep 60", timeout_s=0.3)
    [line], seconds = said(rung, incident(tmp_path))
    assert "TimeoutExpired" in line
    assert seconds < 0.25
    time.sleep(1.6)
    assert not mark.exists()


def test_without_a_folder_a_command_runs_all_the_same() -> None:
    assert said(RunCommand("grep -q lld_spiral"), incident(None))[0] == []


def test_a_warning_warns_and_a_log_does_not(tmp_path: Path) -> None:
    assert said(Warn(), incident(tmp_path))[0] == ["Iteration 31: alarm"]
    assert said(Log(), incident(tmp_path))[0] == []


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "127.0.0.1:80", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"`Webhook` in `collapse.ladder`"):
        Webhook(url)


def test_a_secret_address_stands_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "hook"
    with service() as (url, received):
        file.write_text(f"{url}\n")
        assert said(Webhook(url_file=str(file)), incident(None))[0] == []
    assert len(received) == 1
    with pytest.raises(ConfigurationError, match="to be a file with an address"):
        Webhook(url_file=str(tmp_path / "none"))


def test_an_empty_command_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"`RunCommand` in `collapse.ladder`"):
        RunCommand(" ")
