"""What two processes do; started by test_two_ranks.py with ``torch.distributed.run``, because start-up is most of it.

Every check is a function that returns what the test compares; rank 0 writes all of it to one file.
"""

import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, Strategy

from llds.callbacks import CollapseMonitor, EvaluationTable, TrajectoryLog
from llds.callbacks.ladder import CutLearningRate, RaiseLambda, RollBack, SaveCheckpoint, SkipUpdate, When
from llds.errors import ConfigurationError, RankError
from llds.files import check_whole
from llds.losses import LLDSPenalty
from llds.modules import LoRA, Policy
from llds.modules.policy.partitioned_loading import WeightFiles
from llds.samplers import TransformersSampler
from llds.strategies import (
    ZeRO3Strategy,
    gather,
    is_partitioned,
    local_part,
    rank,
    ranks,
    together,
    whole_shape,
    world_size,
)
from llds.strategies.zero3_checkpoint import trained_weights
from tests.integration.resident import Peak
from tests.integration.scenarios import (
    OVERSAMPLED,
    AdamWAgent,
    GoesBack,
    PoisonedAgent,
    SGDAgent,
    evaluate,
    falling,
    logged,
    probed,
    scenario,
)
from tests.runs import Run, answers, scripted
from tests.scripted_detector import ScriptedDetector

FOLDER = Path(sys.argv[1])


def zero3() -> Strategy:
    return ZeRO3Strategy(persistence_threshold=0, timeout_minutes=2)


def offloading() -> Strategy:
    return ZeRO3Strategy(persistence_threshold=100, offload_optimizer=True, offload_parameters=True, timeout_minutes=2)


def ddp() -> Strategy:
    return DDPStrategy(process_group_backend="gloo")


def outcome(run: Run) -> dict[str, Any]:
    """Weights, metrics and whether the parameters were in parts."""
    weights = {name: value.cpu().clone() for name, value in run.module.policy.weights()}
    parts = [is_partitioned(parameter) and parameter.numel() == 0 for parameter in run.module.parameters()]
    return {
        "bytes": state_bytes(run.trainer.strategy),
        "weights": weights,
        "logged": logged(run),
        "metrics": gather(run.module.metrics),
        "in parts": sum(parts) / len(parts),
        "calls": gather(len(run.module.lengths_seen)),
        "tokens": gather(run.module.lengths_seen),
    }


def state_bytes(strategy: Any) -> dict[str, int]:
    """What this rank keeps between two steps."""
    if not isinstance(strategy, ZeRO3Strategy):
        return {}
    optimizer = strategy.engine.optimizer
    moments = [value for state in optimizer.optimizer.state.values() for value in state.values()]
    module = strategy.lightning_module
    return {
        "policy": sum(local_part(value).nbytes for value in module.policy.parameters()),
        "reference": sum(local_part(value).nbytes for value in module.reference.parameters())
        if module.reference
        else 0,
        "gradients": optimizer.grad_partitions_flat_buffer.nbytes,
        "optimizer": sum(value.nbytes for value in [*optimizer.fp32_partitioned_groups_flat, *moments]),
    }


def trained(name: str, strategy: Callable[[], Strategy], agent: type, **changes: Any) -> Callable[[], Any]:
    settings: dict[str, Any] = {"devices": 2, "is_cut_fine": True} | changes
    return lambda: outcome(scenario(FOLDER / name, agent, strategy=strategy(), **settings).fit())


def resumed() -> Any:
    """Stopped after two of four iterations; with a lagged anchor, which is in parts too."""
    lagged: dict[str, Any] = {"module": {"llds_penalty": LLDSPenalty(anchor="lagged", anchor_lag=1)}}
    whole = scenario(FOLDER / "whole", AdamWAgent, devices=2, strategy=zero3(), iterations=4, **lagged).fit()
    scenario(FOLDER / "half", AdamWAgent, devices=2, strategy=zero3(), iterations=2, **lagged).fit()
    rest = scenario(FOLDER / "half", AdamWAgent, devices=2, strategy=zero3(), iterations=4, **lagged)
    rest.fit(resume=True)
    saved = trained_weights(sorted((FOLDER / "half" / "checkpoints").iterdir())[-1])
    return {
        "whole": outcome(whole),
        "resumed": outcome(rest),
        "names": sorted(saved),
        "saved": {name.removeprefix("policy.model."): value for name, value in saved.items()},
    }


def refused() -> Any:
    """A checkpoint that looks as if three ranks had written it, and one that is none of ZeRO-3."""
    if rank() == 0:
        shutil.copytree(sorted((FOLDER / "half" / "checkpoints").iterdir())[-1], FOLDER / "three.ckpt")
        (FOLDER / "three.ckpt" / "checkpoint" / "zero_pp_rank_2_mp_rank_00_optim_states.pt").touch()
    gather(None)
    messages = []
    for name in ("three.ckpt", "ddp-adamw/checkpoints/iteration-000003.ckpt"):
        run = scenario(FOLDER / "refused", AdamWAgent, devices=2, strategy=zero3(), iterations=5)
        try:
            run.trainer.fit(run.module, datamodule=run.data, ckpt_path=str(FOLDER / name))
        except ConfigurationError as error:
            messages.append(str(error))
    return messages


def damaged() -> Any:
    """A flipped bit in what rank 1 wrote."""
    if rank() == 0:
        shutil.copytree(FOLDER / "half" / "checkpoints", FOLDER / "damaged")
        [part] = sorted((FOLDER / "damaged").iterdir())[-1].rglob("*rank_1_*optim_states.pt")
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    gather(None)
    path = sorted((FOLDER / "damaged").iterdir())[-1]
    run = scenario(FOLDER / "refused", AdamWAgent, devices=2, strategy=zero3(), iterations=5)
    try:
        run.trainer.fit(run.module, datamodule=run.data, ckpt_path=str(path))
    except RankError as error:
        return str(error)
    return ""


class _FullFor(pl.Callback):
    """In the second iteration, the disk of the last rank takes no large file."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        is_full = pl_module.iteration == 2 and rank() == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if is_full else hard, hard))


def full_disk() -> Any:
    """One rank cannot write its part of a checkpoint; the next one is whole."""
    run = scenario(FOLDER / "full", AdamWAgent, _FullFor(), devices=2, strategy=zero3(), iterations=3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run.fit()
    paths = sorted((FOLDER / "full" / "checkpoints").iterdir())
    for path in paths:
        check_whole(path)
    return {"said": [str(one.message) for one in said], "names": [path.name for path in paths]}


def rolled_back(name: str, strategy: Callable[[], Strategy], **changes: Any) -> Callable[[], Any]:
    """Back to a checkpoint in mid-run; with a lagged anchor and a learning rate that falls."""

    def check() -> Any:
        callback = GoesBack()
        module: dict[str, Any] = {"llds_penalty": LLDSPenalty(anchor="lagged", anchor_lag=1)}
        module["optimization"] = falling()
        run = scenario(
            FOLDER / name, AdamWAgent, callback, devices=2, strategy=strategy(), iterations=4, every=2, module=module,
            **changes,
        ).fit()  # fmt: skip
        return {"gaps": gather(callback.gaps), "steps": callback.steps, "iterations": list(logged(run))}

    return check


def guarded(name: str, strategy: Callable[[], Strategy]) -> Callable[[], Any]:
    """An update is skipped, then the whole ladder acts; and the same once more from the checkpoint after it."""

    def run(folder: Path) -> Run:
        skip = SkipUpdate(When("warning", max_count=1))
        monitor = CollapseMonitor(ladder=[skip, SaveCheckpoint(), RaiseLambda(), CutLearningRate(), RollBack()])
        monitor.detector = ScriptedDetector({3: "warning", 4: "alarm"})
        lagged: dict[str, Any] = {"llds_penalty": LLDSPenalty(0.1, anchor="lagged", anchor_lag=1)}
        made = scenario(folder, AdamWAgent, devices=2, strategy=strategy(), iterations=5, module=lagged)
        callbacks = made.trainer.callbacks  # type: ignore[attr-defined]
        callbacks.insert(-1, monitor)
        callbacks[-1].healthy.quiet, callbacks[-1].keep_last = 1, 9
        return made

    def check() -> Any:
        folder, again = FOLDER / name, FOLDER / f"{name}-again"
        whole = run(folder).fit()
        monitor = whole.trainer.callbacks[-2]  # type: ignore[attr-defined]
        if rank() == 0:
            shutil.copytree(folder / "checkpoints", again / "checkpoints")
            last = again / "checkpoints" / "iteration-000005.ckpt"
            shutil.rmtree(last) if last.is_dir() else last.unlink()
        gather(None)
        resumed = run(again).fit(resume=True)
        return {
            "saved": [
                {key: value.detach() for key, value in trained_weights(path).items()}
                for path in sorted((folder / "checkpoints").iterdir())
            ],
            "counts": gather([record.count for _, record in monitor.ladder]),
            "lambda": gather(whole.module.raised_lambda),
            "incidents": sorted(path.name for path in (folder / "incidents").iterdir()),
            "logged": logged(whole),
            "logged again": logged(resumed),
            "weights": {key: value.clone() for key, value in whole.module.policy.weights()},
            "weights again": {key: value.clone() for key, value in resumed.module.policy.weights()},
        }

    return check


def sampled() -> Any:
    """The transformers sampler on a whole copy of a policy in parts."""
    sampler = TransformersSampler(max_wait_s=10.0)
    run = scenario(FOLDER / "sampled", AdamWAgent, devices=2, strategy=zero3(), sampler=sampler, iterations=2).fit()
    return {"gap": [row["policy/behavior_gap_max"] for row in logged(run).values()], **outcome(run)}


def evaluated() -> Any:
    """Twelve questions in batches of five, on two ranks, with the weights of a checkpoint."""
    run = scenario(FOLDER / "half", AdamWAgent, EvaluationTable(), TrajectoryLog(), devices=2, strategy=zero3())
    return evaluate(run)


def failing_alone() -> Any:
    """An error of one rank is everyone's."""

    def fail() -> None:
        if rank() == 1:
            raise ZeroDivisionError("of rank 1")

    try:
        together(fail)
    except RankError as error:
        return gather(str(error))
    return None


def probes() -> Any:
    """Two ranks share the questions of a probe; in parts, no rank could probe."""
    try:
        probed(FOLDER / "zero3-probe", devices=2, strategy=zero3())
    except ConfigurationError as error:
        return {"refusal": str(error), "changes": gather(probed(FOLDER / "ddp-probe", devices=2, strategy=ddp()))}
    return None


def broken_tool() -> Any:
    """One rank's rollout raises what no rollout should; both stop, with a checkpoint of the iteration before."""

    def script(iteration: int, trajectory: int, turn: int) -> str:
        if (iteration, trajectory) == (1, 4):  # the second prompt: rank 1's
            raise ArithmeticError("a bug in a tool")
        return answers(iteration, trajectory, turn)

    sampler = scripted(script)
    run = scenario(FOLDER / "broken", AdamWAgent, devices=2, strategy=zero3(), sampler=sampler, every=10)
    error = ""
    try:
        run.fit()
    except RankError as raised:
        error = str(raised)
    again = scenario(FOLDER / "broken", AdamWAgent, devices=2, strategy=zero3(), every=10).fit(resume=True)
    return {"errors": gather(error), **outcome(again)}


def loaded() -> Any:
    """A model larger than what a rank may allocate for it."""
    module = pl.LightningModule()
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "max_epochs": 1, "accelerator": "cpu"}
    module.trainer = pl.Trainer(devices=2, strategy=zero3(), **settings)
    strategy = module.trainer.strategy
    strategy.connect(module)
    strategy.setup_environment()
    with Peak() as peak:
        policy = Policy(str(FOLDER / "large"), partition=strategy.model_sharded_context)
    sizes = [whole_shape(parameter).numel() * parameter.element_size() for parameter in policy.parameters()]
    equal = [torch.equal(value, WeightFiles(FOLDER / "large").read(name)) for name, value in policy.weights()]
    return {"peaks": gather(peak.bytes), "sizes": sizes, "equal": all(equal)}


def objects() -> dict[str, Any]:
    """By which group objects travel between the ranks."""
    group = ranks._objects.get()
    return {"backend": dist.get_backend(group), "is its own": group is not dist.group.WORLD, "of": gather(rank())}


CHECKS: dict[str, Callable[[], Any]] = {
    "zero3 adamw": trained("zero3-adamw", zero3, AdamWAgent),
    "zero3 sgd": trained("zero3-sgd", zero3, SGDAgent),
    "zero3 lora": trained("zero3-lora", zero3, AdamWAgent, iterations=1, module={"lora": LoRA(rank=2)}),
    "zero3 poisoned": trained("zero3-poisoned", zero3, PoisonedAgent),
    "ddp poisoned": trained("ddp-poisoned", ddp, PoisonedAgent),
    "zero3 offload": trained("zero3-offload", offloading, AdamWAgent),
    "zero3 bf16": trained("zero3-bf16", zero3, AdamWAgent, iterations=1, precision="bf16-mixed"),
    "ddp adamw": trained("ddp-adamw", ddp, AdamWAgent),
    "ddp sgd": trained("ddp-sgd", ddp, SGDAgent),
    "zero3 offload bf16 rolled back": rolled_back("zero3-offload-back", offloading, precision="bf16-mixed"),
    "ddp oversampled": trained("ddp-oversampled", ddp, AdamWAgent, **OVERSAMPLED),
    "ddp rolled back": rolled_back("ddp-back", ddp),
    "zero3 guarded": guarded("zero3-guarded", zero3),
    "ddp guarded": guarded("ddp-guarded", ddp),
    "resumed": resumed,
    "evaluated": evaluated,
    "refused": refused,
    "damaged": damaged,
    "full disk": full_disk,
    "sampled": sampled,
    "probes": probes,
    "failing alone": failing_alone,
    "objects": objects,
    "broken tool": broken_tool,
    "loaded": loaded,
}


def main() -> None:
    """Run the checks; one that fails does not keep the others from running."""
    found: dict[str, Any] = {}
    for name, check in CHECKS.items():
        try:
            found[name] = check()
        except Exception:
            found[name] = {"error": traceback.format_exc()}
            print(f"rank {rank()}: {name}\n{found[name]['error']}", file=sys.stderr, flush=True)
            break
    if rank() == 0:
        torch.save(found | {"ranks": world_size()}, FOLDER / "found.pt")


if __name__ == "__main__":
    main()
