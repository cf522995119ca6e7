"""What every callback of a run keeps is plain values and tensors, and a user's resume takes it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llds.agent_tools import SearchTool
from llds.callbacks import CollapseMonitor, RetrievalCallback, list_checkpoints
from llds.cli.training.checkpoint_path import check_checkpoint
from llds.losses import ImportanceCorrection
from llds.retrieval import BM25Retriever
from llds.rollout import Oversampling, Stragglers
from llds.samplers import Sampler
from tests.runs import Run, answers, make_run, scripted

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


@pytest.mark.parametrize("overlay", OVERLAYS)
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
