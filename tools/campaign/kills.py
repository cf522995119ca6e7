"""Kills: a training that is stopped by signals at random moments and resumed equals one that never was, to the bit.

    python -m tools.campaign --minutes 10 --kinds kills
    python -m tools.campaign.kills --kills 10 --signals KILL TERM INT -- -c conf/rollout/overlap.yaml   # your settings

Moments are spread over the phases of a run: its start (also while the index is built), rollout, scoring, update, the
writing of a checkpoint, the export. A callback in the training says through a pipe which phase begins; the killer waits
for the wanted phase and then for a random share of its length. After SIGTERM and SIGINT the exit status must be 143 and
130. Metrics (all but ``time/``), final weights, optimizer state and exported policy must be equal to the bit, and every
checkpoint must load as plain values. Where time decides what is given up (stragglers), a run must end well.
"""

import argparse
import csv
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import psutil
import torch

from llds.evaluation.model_card import CARD
from tools.campaign.table import Outcome
from tools.campaign.training import SMALL, Fork, corpus, ended, family, fit_arguments, start

PHASES = ("rollout", "score", "update", "checkpoint", "resume")
SIGNALS = ("KILL", "TERM", "INT")
_LORA = "{rank: 4, alpha: 8}"
CASES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "overlap": ("-c", "conf/rollout/overlap.yaml"),
    "oversampling, lagged anchor": (
        "-c", "conf/rollout/oversampling.yaml", "-c", "conf/ablations/lagged_anchor.yaml",
        "--model.llds_penalty.anchor_lag=1",
    ),
    "LoRA": (f"--model.lora={_LORA}",),
    "ladder": ("-c", "conf/collapse/protect.yaml",),
    "overlap, LoRA, lagged anchor, ladder": (
        "-c", "conf/rollout/overlap.yaml", "-c", "conf/ablations/lagged_anchor.yaml",
        "-c", "conf/collapse/protect.yaml", f"--model.lora={_LORA}",
    ),
    "stragglers": ("-c", "conf/rollout/stragglers.yaml"),
    "two ranks": ("--trainer.strategy=ddp", "--trainer.devices=2"),
    "vLLM in process": ("-c", "conf/rollout/vllm_in_process.yaml"),
    "vLLM server": ("-c", "conf/rollout/vllm_server.yaml"),
}  # fmt: skip
"""Settings of ``llds fit``."""
_SLOW = ("two ranks", "vLLM in process", "vLLM server")
_DEPENDS_ON_TIME = ("stragglers",)
_DEADLINE_S = 240.0
_LEFT_BEHIND_S = 40.0
"""By then what a killed run has started must have ended by itself: ranks that miss it, servers."""
_MARKERS = """\
    - class_path: tools.campaign.kills.PhaseMarkers
      init_args: {{path: {pipe}}}"""


class PhaseMarkers(pl.Callback):
    """Writes a line ``<phase> <iteration>`` whenever a phase begins.

    Args:
        path: File or pipe to write to.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        of_rank_zero = os.environ.get("LOCAL_RANK", "0") == "0"
        self._file = open(path if of_rank_zero else os.devnull, "a", buffering=1)  # noqa: SIM115 (open until the process is killed)
        self._mark("resume", 0)

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Wrap what has no hooks around it."""

        def marked(function: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                self._mark(before, pl_module.iteration)
                result = function(*args, **kwargs)
                self._mark(after, pl_module.iteration)
                return result

            return call

        pl_module.save_pretrained = marked(pl_module.save_pretrained, "export", "end")
        pl_module.prepare = marked(pl_module.prepare, "score", "update")
        trainer.save_checkpoint = marked(trainer.save_checkpoint, "checkpoint", "end")  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Mark the rollout; this callback comes before `RolloutCallback`."""
        self._mark("rollout", pl_module.iteration)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Mark the end."""
        self._mark("end", pl_module.iteration)

    def _mark(self, phase: str, iteration: int) -> None:
        with suppress(BrokenPipeError):  # nobody reads on once the signal is sent
            self._file.write(f"{phase} {iteration}\n")


@dataclass
class Plan:
    """When to kill: in the first phase of this name in this iteration or later, after a share of its length."""

    phase: str
    iteration: int
    share: float
    signal: str = "KILL"

    @property
    def number(self) -> int:
        """Of the signal."""
        return int(signal.Signals[f"SIG{self.signal}"])

    def fits(self, status: int | None) -> bool:
        """Whether a process ended as the signal says; one that had all but ended when it came ends well."""
        return status in (0, -self.number if self.signal == "KILL" else 128 + self.number)


@dataclass
class Result:
    """What became of one process."""

    markers: list[tuple[float, str, int]] = field(default_factory=list)
    was_killed: bool = False
    exit_status: int | None = 0
    left_behind: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Setup:
    """What is trained.

    Attributes:
        settings: Of ``llds fit``.
        iterations: Of the run.
        config: What is trained.
        every: Iterations between two checkpoints.
    """

    settings: Sequence[str]
    iterations: int
    config: str = "conf/quickstart.yaml"
    every: int = 2


def train(setup: Setup, root: Path, plan: Plan | None, lengths: dict[str, float]) -> Result:
    """Run ``llds fit`` on a folder, resuming what is there, until it ends or the plan kills it."""
    pipe = root.with_suffix(".pipe")
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    arguments = fit_arguments(
        root,
        setup.settings,
        iterations=setup.iterations,
        every=setup.every,
        callbacks=_MARKERS.format(pipe=pipe),
        config=setup.config,
    )
    if plan is not None and plan.phase == "index":
        shutil.rmtree(root.with_suffix(".index"), ignore_errors=True)
    phase = "resume" if plan is not None and plan.phase == "index" else plan.phase if plan is not None else ""
    result = Result()
    with ended(start(arguments, root.with_suffix(".log"))) as process:
        for found, iteration in read_markers(pipe, process):
            result.markers.append((time.perf_counter(), found, iteration))
            if plan is not None and found == phase and (iteration >= plan.iteration or phase == "resume"):
                time.sleep(plan.share * lengths.get(phase, 0.1))
                others = family(process)
                process.send_signal(plan.number)
                result.was_killed = True
                break
        try:
            result.exit_status = process.wait(_DEADLINE_S)
        except subprocess.TimeoutExpired:
            result.exit_status = None
        if result.was_killed:
            result.left_behind = _end(others)
    return result


def _end(processes: Sequence[psutil.Process]) -> list[str]:
    """Wait for what a killed run has started; the names of what had to be ended."""
    _, left = psutil.wait_procs(processes, _LEFT_BEHIND_S)
    names = []
    for one in left:
        with suppress(psutil.NoSuchProcess):
            names.append(one.name())
            one.kill()
    return names


def read_markers(pipe: Path, process: "Fork | subprocess.Popen[bytes]") -> Iterator[tuple[str, int]]:
    """Yield the markers of a process until it ends."""
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a process that never opens it
    rest = b""
    try:
        while True:
            try:
                data = os.read(descriptor, 4096)
            except BlockingIOError:
                data = b""
            if not data:
                if process.poll() is not None:
                    return
                time.sleep(0.001)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                phase, iteration = line.decode().split()
                yield phase, int(iteration)
    finally:
        os.close(descriptor)


def mean_lengths(markers: list[tuple[float, str, int]]) -> dict[str, float]:
    """Mean seconds of each phase."""
    spans: dict[str, list[float]] = defaultdict(list)
    for (begin, phase, _), (end, _, _) in pairwise(markers):
        spans[phase].append(end - begin)
    return {phase: sum(values) / len(values) for phase, values in spans.items()}


def make_plans(kills: int, iterations: int, draw: random.Random, signals: Sequence[str] = SIGNALS) -> list[Plan]:
    """Moments in the order of their iterations: all phases, the index first and the export last where there is room."""
    first = [Plan("index", 0, draw.random(), draw.choice(signals))] if kills > 2 else []
    last = [Plan("export", iterations, draw.random(), draw.choice(signals))] if kills > 3 else []
    between = kills - len(first) - len(last)
    phases = draw.sample(PHASES * (between // len(PHASES) + 1), between)
    when = sorted(draw.randrange(iterations - 1) for _ in phases)
    plans = [Plan(*one, draw.random(), draw.choice(signals)) for one in zip(phases, when, strict=True)]
    return [*first, *plans, *last]


def tries(draw: random.Random, folder: Path, cases: Sequence[str] = tuple(CASES)) -> Iterator[Outcome]:
    """Chains of kills over cases in turn, for ever."""
    passages = corpus(folder)
    wholes: dict[str, dict[str, float]] = {}
    for number in count():
        for case in _in_turn(draw, cases):
            settings = CASES[case]
            name = case.replace(" ", "_").replace(",", "")
            setup = Setup((*SMALL, f"--retrieval.retriever.corpus={passages}", *settings), iterations=4)
            whole, killed = folder / f"{name}-whole", folder / f"{name}-{number}"
            if case not in wholes:
                result = train(setup, whole, None, {})
                if result.exit_status != 0:
                    yield Outcome(case, f"the run that is never killed ended with {result.exit_status}: {log(whole)}")
                    continue
                wholes[case] = mean_lengths(result.markers)
            kills = 2 if case in _SLOW or number == 0 else 6  # short chains first, for a little of it all
            yield chain(case, setup, whole, killed, make_plans(kills, 4, draw), wholes[case])
            for one in (killed, *folder.glob(f"{killed.name}.*")):
                shutil.rmtree(one) if one.is_dir() else one.unlink(missing_ok=True)


def _in_turn(draw: random.Random, cases: Sequence[str]) -> list[str]:
    """Those of the cases that can run here in random order, and at the end those that take longest."""
    has_vllm = importlib.util.find_spec("vllm") is not None
    slow = [case for case in _SLOW if case in cases and (has_vllm or not case.startswith("vLLM"))]
    quick = [case for case in cases if case not in _SLOW]
    return [*draw.sample(quick, len(quick)), *slow]


def chain(
    case: str, setup: Setup, whole: Path, killed: Path, plans: Sequence[Plan], lengths: dict[str, float]
) -> Outcome:
    """Kill a run by some plans, let it end, and compare it with the whole one."""
    kills, said = 0, []
    for plan in plans:
        result = train(setup, killed, plan, lengths)
        kills += result.was_killed
        said.append(f"{plan.signal} in {plan.phase} {plan.iteration}+{plan.share:.2f}")
        if not (plan.fits(result.exit_status) if result.was_killed else result.exit_status == 0):
            return Outcome(case, f"status {result.exit_status} after {'; '.join(said)}: {log(killed)}", max(kills, 1))
        if result.left_behind:
            return Outcome(case, f"left {result.left_behind} behind after {'; '.join(said)}", kills)
        for path in (killed / "checkpoints").glob("iteration-*.ckpt"):
            torch.load(path, weights_only=True)
    last = train(setup, killed, None, {})
    if last.exit_status:
        return Outcome(case, f"status {last.exit_status} of the last run after {'; '.join(said)}: {log(killed)}", kills)
    if case in _DEPENDS_ON_TIME:
        missing = read_metrics(whole).keys() - read_metrics(killed).keys()
        return Outcome(case, f"iterations {missing} are missing" if missing else "", kills)
    differences = compare(whole, killed)
    note = f"{len(differences)} differences after {'; '.join(said)}; first {differences[0]}" if differences else ""
    return Outcome(case, note, kills)


def log(root: Path) -> str:
    """The end of what a run's processes said."""
    return " / ".join(root.with_suffix(".log").read_text(errors="replace").splitlines()[-3:])[-400:]


def read_metrics(root: Path) -> dict[str, dict[str, str]]:
    """Metrics by iteration, without times; of an iteration that was done twice, the last."""
    rows: dict[str, dict[str, str]] = {}
    for version in sorted((root / "csv").glob("version_*"), key=lambda folder: int(folder.name.split("_")[1])):
        if (version / "metrics.csv").is_file():
            with (version / "metrics.csv").open() as file:
                for row in csv.DictReader(file):
                    if None in row.values():
                        continue  # the process was killed in the middle of this line
                    kept = {key: value for key, value in row.items() if value and not key.startswith("time/")}
                    rows.setdefault(row["iteration"], {}).update(kept)
    return rows


def compare(whole: Path, killed: Path) -> list[str]:
    """What differs between the two runs, in words."""
    differences = []
    one, other = read_metrics(whole), read_metrics(killed)
    for iteration in sorted(one.keys() | other.keys(), key=float):
        a, b = one.get(iteration, {}), other.get(iteration, {})
        differences += [
            f"iteration {iteration}: {key} {a.get(key)} / {b.get(key)}"
            for key in sorted(a.keys() | b.keys())
            if a.get(key) != b.get(key)
        ]
    last = [max((root / "checkpoints").glob("iteration-*.ckpt")) for root in (whole, killed)]
    states = [torch.load(path, weights_only=True) for path in last]
    for state in states:
        state["search_agent"].pop("metrics")  # with times; compared above
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "search_agent", "PromptDataModule"):
        differences += [f"checkpoint: {name}"] * (not is_equal(states[0][name], states[1][name]))
    for path in sorted((whole / "policy").iterdir()):
        twin = killed / "policy" / path.name
        is_same = twin.is_file() and _without_name(twin, killed) == _without_name(path, whole)
        differences += [f"policy/{path.name}"] * (not is_same)
    return differences


def _without_name(path: Path, run: Path) -> bytes:
    """A file's content; of the model card without the name of its run."""
    content = path.read_bytes()
    return content.replace(run.name.encode(), b"") if path.name == CARD else content


def is_equal(a: Any, b: Any) -> bool:
    """Whether two nested states are equal, tensors to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(is_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def parse() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="number of kills")
    parser.add_argument("--iterations", type=int, default=12, help="rollout iterations of the run")
    parser.add_argument("--every", type=int, default=2, help="iterations between two checkpoints")
    parser.add_argument("--signals", nargs="+", default=["KILL"], choices=SIGNALS, help="drawn from")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--config", default="conf/quickstart.yaml", help="configuration of the run")
    parser.add_argument("settings", nargs="*", help="settings of llds fit, after --")
    return parser.parse_args()


def main() -> None:
    """Train twice, once with kills, and print what came of it."""
    options = parse()
    setup = Setup(options.settings, options.iterations, options.config, options.every)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        reference = train(setup, whole, None, {})
        if reference.exit_status:
            sys.exit(f"The run that is never killed failed: {log(whole)}")
        lengths = mean_lengths(reference.markers)
        print("mean seconds: " + ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in lengths.items()), flush=True)
        plans = make_plans(options.kills, options.iterations, random.Random(options.seed), options.signals)  # noqa: S311
        outcome = chain("the run", setup, whole, killed, plans, lengths)
        columns = len({key for row in read_metrics(whole).values() for key in row})
    print(
        f"{outcome.count} kills, {options.iterations} iterations x {columns} metrics, final state and policy: ", end=""
    )
    print(outcome.note or "equal to the bit")
    sys.exit(1 if outcome.note else 0)


if __name__ == "__main__":
    main()
