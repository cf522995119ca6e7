"""From questions to a trained policy and a table of results, with nothing but real components."""

import gzip
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llds.agent_tools import SearchTool
from llds.callbacks import CollapseMonitor, EvaluationTable, ExportPolicy, RetrievalCallback, TrajectoryLog
from llds.data import DataSource
from llds.evaluation import Summary, read_record, summarize
from llds.evaluation.model_card import CARD, renew_model_card
from llds.retrieval import ChromaRetriever
from llds.rewards import ExactMatchReward
from llds.rollout import EpisodeLimits, Oversampling
from llds.samplers import TransformersSampler
from tests.integration.conftest import QUESTIONS
from tests.runs import POLICY, Run, by_iteration, make_run

LIMITS = EpisodeLimits(action_tokens=32, observation_tokens=128, total_tokens=512, turns=3)


def real_run(folder: Path, corpus: Path, iterations: int = 3, oversampling: Oversampling | None = None) -> Run:
    """Four questions x six trajectories per iteration."""
    callbacks = [
        RetrievalCallback(ChromaRetriever(str(folder.parent / "index"), str(corpus))),
        CollapseMonitor(),
        TrajectoryLog(),
        EvaluationTable(),
        ExportPolicy(),
    ]
    rollout: dict[str, Any] = {"group_size": 6, "limits": LIMITS, "eval_limits": LIMITS, "reward": ExactMatchReward()}
    rollout["oversampling"] = oversampling
    run = make_run(
        folder,
        *callbacks,
        iterations=iterations,
        sampler=TransformersSampler(max_wait_s=10.0),
        rollout=rollout,
        module={"policy": POLICY},
        tools=[SearchTool(top_k=2)],
    )
    run.data.batch_size = 4
    run.data.sources["train"] = run.data.sources["test"] = DataSource("llds:quickstart/train.jsonl", limit=QUESTIONS)
    return run


@pytest.mark.slow
def test_a_run_trains_measures_and_exports(tmp_path: Path, corpus: Path) -> None:
    run = real_run(tmp_path / "run", corpus).fit()
    logged = by_iteration(run.folder)
    assert list(logged) == ["1.0", "2.0", "3.0"]
    for row in logged.values():
        assert all(math.isfinite(float(value)) for value in row.values())
        assert float(row["policy/behavior_gap_max"]) <= 1e-4
        assert float(row["rollout/tool_calls"]) > 0.3
        assert float(row["retrieval/hit_rate"]) > 0.1
        assert float(row["train/grad_norm"]) > 0
    assert len(list((run.folder / "trajectories").iterdir())) == 3

    exported = AutoModelForCausalLM.from_pretrained(run.folder / "policy", dtype=torch.float32)
    prompt = run.data.template.encode(run.data.prompts["train"][0], run.module.tokenizer)
    ids = torch.tensor([prompt.prompt_ids])
    with torch.no_grad(), run.module.policy.evaluating():
        assert torch.equal(exported(ids).logits, run.module.policy.model(ids).logits)

    summary = _test(run)
    assert summary.all_questions.n == QUESTIONS == sum(source.n for source in summary.sources)
    assert summary.all_questions.exact_match.low <= summary.all_questions.exact_match.value
    card = run.folder / "policy" / CARD
    assert "No evaluation of exactly these weights" in card.read_text()
    assert renew_model_card(run.folder / "policy", run.folder)
    assert "| this policy: EM |" in card.read_text(), "what was measured has the weights that were exported"


@pytest.mark.slow
def test_a_run_that_oversamples_trains_on_groups_with_a_signal(tmp_path: Path, corpus: Path) -> None:
    run = real_run(tmp_path / "run", corpus, iterations=2, oversampling=Oversampling(max_factor=2.5)).fit()
    rows = by_iteration(run.folder).values()
    for row in rows:
        count = {name: float(row[f"rollout/groups_{name}"]) for name in ("drawn", "with_signal")}
        assert count["with_signal"] >= 4 or count["drawn"] == 10
        assert float(row["reward/informative_groups"]) == pytest.approx(count["with_signal"] / count["drawn"])
        assert float(row["policy/behavior_gap_max"]) <= 1e-4
        assert 0 < float(row["reward/mean_trained"]) < 1
    assert any(float(row["rollout/rounds"]) > 1 for row in rows)
    assert any(float(row["retrieval/queries"]) > 24 for row in rows)  # of all rounds
    files = sorted((run.folder / "trajectories").iterdir())
    lines = [len(gzip.decompress(file.read_bytes()).splitlines()) for file in files]
    assert lines == [6 * float(row["rollout/groups_drawn"]) for row in rows]


def _test(run: Run) -> Summary:
    run.trainer.test(run.module, run.data, verbose=False)
    return summarize(read_record(run.folder).questions)


@pytest.mark.slow
def test_a_run_that_resumes_at_a_border_equals_one_that_never_stopped(tmp_path: Path, corpus: Path) -> None:
    whole = real_run(tmp_path / "a", corpus, iterations=4).fit()
    real_run(tmp_path / "b", corpus, iterations=2).fit()
    resumed = real_run(tmp_path / "b", corpus, iterations=4).fit(resume=True)
    assert by_iteration(resumed.folder) == by_iteration(whole.folder)
    assert all(torch.equal(value, whole.weights[name]) for name, value in resumed.weights.items())
