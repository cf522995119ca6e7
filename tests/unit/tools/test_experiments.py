"""The experiments' instruments: paired updates leave a run as it is, and the statistics are right."""

import asyncio
import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llds.batches.policy_batch import collate
from llds.modules import SearchAgentModule
from llds.retrieval import Passage, Retriever
from tests.runs import answers, make_run, rows, scripted
from tests.trajectories import random_trajectories
from tools.experiments.analyse import PAGES, with_tables
from tools.experiments.cures import entries as cures
from tools.experiments.cures import runs as bench
from tools.experiments.cures import tables as cure_tables
from tools.experiments.cures.__main__ import settings as bench_settings
from tools.experiments.cures.regimes import REGIMES
from tools.experiments.full_runs import STUDIES
from tools.experiments.inference import fisher_test, paired_difference, sign_test
from tools.experiments.paired import VARIANTS, PairedUpdates
from tools.experiments.recording import RECORDS, Collect, Record, mean_log_likelihood
from tools.experiments.records_table import NAME
from tools.experiments.tasks import QUICKSTART, NoisySearchTool, RandomReward
from tools.study import Study


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory):
    """A run of three iterations, and its correct trajectories."""
    collect = Collect()
    run = make_run(tmp_path_factory.mktemp("plain"), iterations=3, sampler=scripted(answers))
    run.trainer.callbacks.append(collect)
    return run.fit(), collect.correct


@pytest.mark.slow
def test_a_run_with_paired_updates_ends_as_one_without_to_the_bit(tmp_path: Path, plain) -> None:
    without, correct = plain
    names = ("lambda 0", "lambda 5", "frozen anchor", "lambda 0, half the learning rate")
    paired = PairedUpdates([one for one in VARIANTS if one.name in names], [1, 2], collate(correct), probe=True)
    run = make_run(tmp_path, iterations=3, sampler=scripted(answers))
    run.trainer.callbacks.append(paired)
    run.fit()
    assert all(torch.equal(value, run.weights[name]) for name, value in without.weights.items())
    assert [row["reward/mean"] for row in rows(run.folder)] == [row["reward/mean"] for row in rows(without.folder)]
    assert [row["train/grad_norm"] for row in rows(run.folder)] == [
        row["train/grad_norm"] for row in rows(without.folder)
    ]
    assert [(row["iteration"], row["variant"]) for row in paired.rows] == [
        (at, name) for at in (1, 2) for name in names
    ]
    assert {row["iteration"] for row in paired.probe_rows} == {1, 2}


@pytest.mark.slow
def test_the_fixed_set_is_scored_as_its_mean_log_likelihood(plain) -> None:
    run, correct = plain
    batch = collate(correct[:2])
    log_probs = run.module.score(run.module.policy, batch)
    each = [float(log_probs[row][batch.action_index[row] >= 0].mean()) for row in range(2)]
    assert mean_log_likelihood(run.module, batch) == pytest.approx(sum(each) / 2, abs=1e-6)


@pytest.mark.slow
def test_the_record_keeps_what_was_logged_without_times(tmp_path: Path) -> None:
    record = Record()
    run = make_run(tmp_path, iterations=2, sampler=scripted(answers))
    run.trainer.callbacks.append(record)
    run.fit()
    assert [row["iteration"] for row in record.rows] == [1, 2]
    assert not any(name.startswith("time/") for name in record.rows[0])


@pytest.mark.slow
def test_the_tables_of_the_pages_are_those_of_the_records() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert with_tables(text) == text, f"{page.name}: run `python -m tools.experiments.analyse`"


class Echo(Retriever):
    """Finds the query."""

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """One passage."""
        return [[Passage("echo", query, query)] for query in queries]

    def describe(self) -> dict[str, str]:
        """Nothing."""
        return {}


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_so_many_searches_return_other_passages_the_same_ones_every_time(noise: float, share: float) -> None:
    def search_often() -> list[tuple[str, ...]]:
        tool = NoisySearchTool(noise, QUICKSTART.corpus, 1, seed=1)
        tool.attach(Echo())
        tool.begin_iteration()
        return [asyncio.run(tool.run(f"query {number}")).document_ids for number in range(200)]

    found = search_often()
    assert sum(ids != ("echo",) for ids in found) / len(found) == pytest.approx(share, abs=0.1)
    assert search_often() == found


def test_a_random_reward_is_a_coin_that_a_trajectory_keeps() -> None:
    trajectories = random_trajectories(groups=50)
    rewards = [RandomReward(0)(one) for one in trajectories]
    assert rewards == [RandomReward(0)(one) for one in trajectories]
    assert sum(rewards) / len(rewards) == pytest.approx(0.5, abs=0.15)


def test_no_two_jobs_of_a_study_share_a_record_and_the_page_reads_their_names() -> None:
    for study, jobs in STUDIES.items():
        names = [job.name for job in jobs()]
        assert len(set(names)) == len(names), study
        assert all(NAME.fullmatch(name) for name in names), study


def test_fishers_test_by_hand() -> None:
    # Margins 4+4 and 4 hits: tables with 4, 3, ... hits on the left have C(4,k)^2 of C(8,4) = 70 ways.
    assert fisher_test(4, 4, 0, 4) == pytest.approx(2 / 70)
    assert fisher_test(3, 4, 1, 4) == pytest.approx((1 + 16 + 16 + 1) / 70)


def test_the_sign_test_by_hand() -> None:
    assert sign_test(8, 0) == pytest.approx(2 / 256)
    assert sign_test(1, 1) == 1.0
    assert sign_test(0, 0) == 1.0


def test_pairs_by_hand() -> None:
    found = paired_difference([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert (found.mean, found.up, found.down) == (2.0, 3, 0)
    assert found.error == pytest.approx(1 / 3**0.5)
    assert 1.0 <= found.low <= found.mean <= found.high <= 3.0


def cure_run(name: str, value: float, seed: int, rewards: float, rate: float = 1e-3) -> bench.Run:
    """A run of the bench whose reward is the same throughout."""
    rows = [
        {"reward/mean": str(rewards), "policy/entropy": "1", "policy/fixed_log_likelihood": "-1"} for _ in range(32)
    ]
    rows[0][bench.SECONDS] = "17"
    return bench.Run(bench.Job(name, value, rate, seed), rows)


def test_a_run_of_the_bench_has_a_name_that_says_all_of_it() -> None:
    job = bench.Job("cispo+llds", 5.0, 1.5e-3, 103)
    assert job.name == "cispo+llds=5 lr=0.0015 seed=103"
    assert bench.Job.named(job.name) == job
    elsewhere = replace(job, regime="quickstart")
    assert elsewhere.name == "cispo+llds=5 lr=0.0015 seed=103 on=quickstart"
    assert bench.Job.named(elsewhere.name) == elsewhere


def test_the_bench_counts_the_runs_of_other_studies_that_are_the_same_trainings() -> None:
    jobs = {run.job for run in bench.recorded() if run.job.regime == "quickstart"}
    names = {job.entry for job in jobs}
    assert {"grpo", "half_rate", "llds_0.2", "llds_1"} <= names
    for name in ("grpo", "half_rate", "llds_0.2"):
        found = bench.table_runs(name, bench.recorded(), 2e-3, "quickstart")
        assert [run.job.seed for run in found] == list(REGIMES["quickstart"].seeds)
    half, plain = (
        Study(RECORDS / "quickstart").read()[f"quickstart-lr{rate}-lambda0-seed400"] for rate in ("0.001", "0.002")
    )
    runs = {run.job: run.rows for run in bench.recorded()}
    assert runs[bench.Job("half_rate", 0.5, 2e-3, 400, "quickstart")] == half
    assert runs[bench.Job("grpo", 0.0, 2e-3, 400, "quickstart")] == plain


def test_a_cure_with_a_reward_of_its_own_is_not_tried_where_the_reward_is_a_coin() -> None:
    jobs = list(bench.left(["psr", "gdpo"], [300], [1e-3], [], usual=True, regime="erosion"))
    assert jobs == [bench.Job("psr", 0.0, 1e-3, 300, "erosion")]
    assert isinstance(bench_settings(jobs[0]).reward, RandomReward)
    assert bench_settings(bench.Job("psr", 0.0, 1e-3, 100)).reward is None


def test_the_bench_chooses_each_knob_on_seeds_apart_and_then_runs_fresh_ones() -> None:
    entry = bench.entry_of("cispo")
    assert not set(bench.CHOICE_SEEDS) & set(REGIMES["small"].seeds)
    first = list(bench.left(["grpo", "cispo"], [100], [1e-3], []))
    assert [job.seed for job in first] == [700] * 3 + [701] * 3 + [100]
    assert first[-1] == bench.Job("grpo", 0.0, 1e-3, 100)
    runs = [
        cure_run("cispo", value, seed, 0.1 * at) for at, value in enumerate(entry.values) for seed in bench.CHOICE_SEEDS
    ]
    assert bench.chosen(entry, runs[:-1]) is None
    assert bench.chosen(entry, runs) == entry.values[-1]
    assert list(bench.left(["cispo"], [100], [1e-3], runs)) == [bench.Job("cispo", entry.values[-1], 1e-3, 100)]
    runs.append(cure_run("cispo", entry.values[-1], 100, 0.5))
    assert list(bench.left(["cispo"], [100], [1e-3], runs)) == []
    assert bench.best(["grpo", "cispo"], runs) == ["cispo+llds"]
    assert bench.best(["grpo", "cispo"], runs, 0) == []
    assert bench.table_runs("cispo", runs) == runs[-1:]


def test_the_bench_without_a_choice_runs_usual_knobs_and_whole_cures_block_by_block() -> None:
    jobs = list(bench.left(["grpo", "cispo"], range(100, 107), [1e-3], [], usual=True))
    assert [job.entry for job in jobs] == ["grpo"] * 5 + ["cispo"] * 5 + ["grpo"] * 2 + ["cispo"] * 2
    assert [job.seed for job in jobs] == [*range(100, 105)] * 2 + [105, 106] * 2
    assert {job.value for job in jobs if job.entry == "cispo"} == {bench.entry_of("cispo").values[0]}
    runs = [cure_run("cispo", 5.0, 100, 0.5)]
    assert bench.table_runs("cispo", runs) == runs  # the usual value, as long as none is chosen


def test_every_entry_of_the_bench_makes_a_training_with_and_without_llds() -> None:
    assert len(cures.ENTRIES) >= 24
    accepted = set(inspect.signature(SearchAgentModule).parameters)
    for entry in cures.ENTRIES:
        assert len(entry.values) in (1, 3)
        for value in entry.values:
            changes, pair = entry.make(value), cures.entry_of(entry.name + cures.PAIR).make(value)
            assert (pair.llds["coefficient"], pair.rate) == (1.0, changes.rate)
            assert set(changes.module) <= accepted


def test_the_tables_of_the_bench_compare_with_plain_grpo_at_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = dict(zip(range(100, 106), (0.4, 0.1, 0.4, 0.1, 0.25, 0.9), strict=True))
    runs = [cure_run("grpo", 0.0, seed, 0.2) for seed in range(100, 105)]
    runs += [cure_run("llds_1", 1.0, seed, reward) for seed, reward in rewards.items()]  # a seed more than the others
    runs += [cure_run("cispo", 5.0, seed, 0.9) for seed in range(100, 104)]  # too few for the table
    monkeypatch.setattr(cure_tables, "recorded", lambda: runs)
    rows = cure_tables.rate_table(1e-3).splitlines()
    assert rows[0] == "The 5 seeds that all of these 2 cures have: 100, 101, 102, 103, 104."
    assert len(rows) == 6
    assert rows[5].startswith("| llds_1 |  | 0 of 5 | 0.00 to 0.43 | 0.250 | +0.050 (3 up, 2 down) | 1 |")
    ranking = cure_tables.ranking_table()
    assert "5 pairs of rate (0.001) and seed that all of these 2 cures have" in ranking
    assert "| llds_1 | 0.250 | 1 to 2 | 0 of 5 |" in ranking
    assert cure_tables.rate_table(5e-4) == cure_tables.NOTHING
