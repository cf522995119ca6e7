"""Checkpoints on bad disks, with plain values alone, and the export of the policy."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from transformers import AutoModelForCausalLM, AutoTokenizer

from llds.agent_tools import SearchTool
from llds.callbacks import (
    CollapseMonitor,
    ExportPolicy,
    IterationCheckpoint,
    RetrievalCallback,
    RolloutCallback,
    list_checkpoints,
)
from llds.cli.training.checkpoint_path import check_checkpoint
from llds.errors import CheckpointError, ConfigurationError
from llds.files import check_whole
from llds.losses import ImportanceCorrection
from llds.modules import LoRA, SearchAgentModule
from llds.modules.policy.policy import Policy
from llds.retrieval import BM25Retriever
from llds.rollout import Oversampling, Stragglers
from llds.samplers import Sampler
from llds.strategies import SealedCheckpointIO
from llds.types import Trajectory
from tests.runs import FirstIsRight, Run, answers, make_run, scripted, tiny_policy


class At(pl.Callback):
    """Does something when an iteration has ended, before its checkpoint is written."""

    def __init__(self, actions: dict[int, Callable[[pl.Trainer, SearchAgentModule], Any]]) -> None:
        self.actions = actions

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: SearchAgentModule, *_: Any) -> None:
        """Act."""
        self.actions.get(pl_module.iteration, lambda *_: None)(trainer, pl_module)


@pytest.fixture
def disk() -> Any:
    """The largest file that can be written; a larger one fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda count: resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run_with(folder: Path, actions: dict[int, Any], **changes: Any) -> Run:
    return make_run(folder, At(actions), **({"iterations": 4, "sampler": scripted(answers)} | changes))


def names(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


def test_checkpoints_are_sealed_and_nothing_goes_through_memory_or_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    run = run_with(tmp_path, {}, iterations=1).fit()
    assert isinstance(run.trainer.strategy.checkpoint_io, SealedCheckpointIO)
    [path] = list_checkpoints(tmp_path)
    assert b"llds crc32 " in path.read_bytes()[-20:]
    check_whole(path)


@pytest.mark.slow
def test_a_full_disk_is_a_warning_and_the_next_checkpoint_is_the_next_try(tmp_path: Path, disk: Any) -> None:
    actions = {2: lambda *_: disk(20_000), 3: lambda *_: disk(resource.RLIM_INFINITY)}
    with pytest.warns(UserWarning, match=r"iteration-000002.ckpt, got: .*File too large.* failure 1 of 3") as warned:
        run_with(tmp_path, actions).fit()
    assert f"The last good one: {tmp_path / 'checkpoints' / 'iteration-000001.ckpt'}" in str(warned[-1].message)
    assert names(tmp_path) == ["iteration-000003.ckpt", "iteration-000004.ckpt"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


@pytest.mark.slow
def test_a_disk_that_stays_full_stops_the_run_which_then_resumes(tmp_path: Path, disk: Any) -> None:
    run = run_with(tmp_path, {2: lambda *_: disk(20_000)}, iterations=9)
    with (
        pytest.warns(UserWarning, match="The run goes on and tries again"),
        pytest.raises(CheckpointError, match=r"stops after 3 such failure\(s\) in a row \(`max_failed_saves` 3"),
    ):
        run.fit()
    assert run.module.iteration == 4
    assert names(tmp_path) == ["iteration-000001.ckpt"]
    check_whole(list_checkpoints(tmp_path)[0])
    disk(resource.RLIM_INFINITY)
    assert make_run(tmp_path, iterations=3, sampler=scripted(answers)).fit(resume=True).module.iteration == 3


def test_a_checkpoint_that_does_not_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llds.strategies.checkpoint_io.tensor_bytes", lambda content: 10**18)
    with pytest.raises(CheckpointError, match=r"it needs 1000000000\.00 GB, and [\d.]+ GB are free"):
        run_with(tmp_path, {}, iterations=1).fit()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    gone = tmp_path / "run"
    run = run_with(gone, {1: lambda *_: shutil.rmtree(gone)}, iterations=2)
    with pytest.warns(UserWarning, match="No such file or directory.* none"), pytest.raises(FileNotFoundError):
        run.fit()  # the second error is the logger's, of which the command line makes a sentence
    assert not gone.exists()


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_saved_and_the_run_stops(tmp_path: Path) -> None:
    def poison(trainer: pl.Trainer, module: SearchAgentModule) -> None:
        with torch.no_grad():
            next(module.policy.parameters())[0, 0] = float("nan")

    with pytest.raises(CheckpointError, match=r"after iteration 3, got `policy\.\S+` with NaN or infinity"):
        run_with(tmp_path, {3: poison}).fit()
    assert names(tmp_path) == ["iteration-000001.ckpt", "iteration-000002.ckpt"]


@pytest.mark.slow
def test_optimizer_states_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    def poison(trainer: pl.Trainer, module: SearchAgentModule) -> None:
        for state in trainer.optimizers[0].state.values():
            state["exp_avg_sq"].view(-1)[0] = float("inf")

    with pytest.raises(CheckpointError, match=r"got `exp_avg_sq of policy\.\S+` and \d+ more with NaN"):
        run_with(tmp_path, {2: poison}).fit()
    assert names(tmp_path) == ["iteration-000001.ckpt"]


@pytest.mark.slow
def test_an_interrupted_run_on_a_full_disk_says_so_and_keeps_the_last_checkpoint(tmp_path: Path, disk: Any) -> None:
    class Interrupted(FirstIsRight):
        def __call__(self, trajectory: Trajectory) -> float:
            if trajectory.policy_version == 2:
                disk(20_000)
                raise SIGTERMException(143)
            return super().__call__(trajectory)

    run = run_with(tmp_path, {}, rollout={"reward": Interrupted()}, every=100)
    [own] = [one for one in run.trainer.callbacks if isinstance(one, IterationCheckpoint)]  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="The last good one: none"), pytest.raises(SystemExit):
        run.fit()
    assert own.last_path == ""
    assert names(tmp_path) == []


def test_the_export_replaces_an_old_one_and_damage_of_it_is_found(tmp_path: Path) -> None:
    for left in ("policy", ".policy.replaced", ".policy.partial"):  # a process was killed while it exported
        (tmp_path / left).mkdir(parents=True)
        (tmp_path / left / "old.bin").touch()
    make_run(tmp_path, ExportPolicy(), iterations=1, sampler=scripted(answers)).fit()
    assert not [one.name for one in tmp_path.iterdir() if one.name.startswith(".policy")]
    assert not (tmp_path / "policy" / "old.bin").exists()
    Policy(str(tmp_path / "policy"), "float32")
    weights = tmp_path / "policy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"which is damaged: model\.safetensors is not as it was written"):
        Policy(str(tmp_path / "policy"), "float32")


def test_an_export_that_fails_leaves_the_old_one(tmp_path: Path, disk: Any) -> None:
    shutil.copytree(tiny_policy(), tmp_path / ".policy.replaced")  # a process was killed between two renames
    run = make_run(tmp_path, ExportPolicy(), iterations=1, sampler=scripted(answers))
    run.trainer.callbacks = [one for one in run.trainer.callbacks if not isinstance(one, IterationCheckpoint)]  # type: ignore[attr-defined]
    run.trainer.callbacks.append(At({1: lambda *_: disk(20_000)}))  # type: ignore[attr-defined]
    assert any(isinstance(one, RolloutCallback) for one in run.trainer.callbacks)  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="Expected to write the trained policy to"):
        run.fit()
    disk(resource.RLIM_INFINITY)
    Policy(str(tmp_path / "policy"), "float32")


@pytest.mark.parametrize("lora", [None, pytest.param(LoRA(rank=2), marks=pytest.mark.slow)])
def test_the_trained_policy_loads_in_plain_transformers(tmp_path: Path, lora: LoRA | None) -> None:
    run = make_run(tmp_path, ExportPolicy(), iterations=2, sampler=scripted(answers), module={"lora": lora}).fit()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    prompt = run.data.template.encode(run.data.prompts["train"][0], run.module.tokenizer)
    ids = torch.tensor([prompt.prompt_ids])
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").encode("a <search>") == run.module.tokenizer.encode(
        "a <search>"
    )
    with torch.no_grad(), run.module.policy.evaluating():
        expected = run.module.policy.model(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=0 if lora is None else 1e-5)
        initial = AutoModelForCausalLM.from_pretrained(run.module.policy_path, dtype=torch.float32)(ids).logits
        assert (expected - initial).abs().max() > 1e-4


OVERLAYS: dict[str, dict[str, Any]] = {
    "overlap": {"overlap": True},
    "oversampling": {"oversampling": Oversampling(max_factor=2.0)},
    "stragglers": {"stragglers": Stragglers()},
}
"""The overlays of conf/rollout that need no vLLM."""


def made(folder: Path, corpus: Path, overlay: str, iterations: int) -> Run:
    sampler: Sampler = scripted(answers)
    module: dict[str, Any] = {}
    if overlay == "overlap":
        sampler.can_overlap = True
        module = {"importance_correction": ImportanceCorrection()}
    retrieval = RetrievalCallback(BM25Retriever(str(corpus.with_name("index")), str(corpus)))
    return make_run(
        folder, retrieval, CollapseMonitor(), tools=[SearchTool()], iterations=iterations, sampler=sampler,
        rollout=OVERLAYS[overlay], module=module, every=2,
    )  # fmt: skip


@pytest.mark.parametrize(
    "overlay", ["overlap", *(pytest.param(one, marks=pytest.mark.slow) for one in OVERLAYS if one != "overlap")]
)
def test_a_checkpoint_in_mid_run_is_one_that_a_resume_takes(tmp_path: Path, overlay: str) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"id": str(number), "contents": f'"Ghana {number}"\ndemonym {number}'} for number in range(8)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made(tmp_path / "run", corpus, overlay, 3).fit()
    for path in list_checkpoints(tmp_path / "run"):
        check_checkpoint(path)
        assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    middle = list_checkpoints(tmp_path / "run")[0]
    state = torch.load(middle, weights_only=True)["callbacks"]
    if overlay == "overlap":
        [rollout] = [value for name, value in state.items() if name.startswith("RolloutCallback")]
        assert rollout["iteration"] == 1
        assert "queries" in rollout["tool_statistics"][0][0]
    list_checkpoints(tmp_path / "run")[-1].unlink()
    run = made(tmp_path / "run", corpus, overlay, 3)
    run.trainer.fit(run.module, datamodule=run.data, ckpt_path=str(middle), weights_only=True)
    assert run.module.iteration == 3
