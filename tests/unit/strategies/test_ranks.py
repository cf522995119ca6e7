"""One rank alone, and a run that goes back to a checkpoint."""

import math
import threading
from pathlib import Path

import pytest
import torch

from llds.losses import LLDSPenalty
from llds.strategies import deadline, ends_within, gather, gathered, is_partitioned, rank, together, world_size
from tests.integration.scenarios import AdamWAgent, GoesBack, falling, logged, scenario


def test_one_rank_is_alone() -> None:
    assert (rank(), world_size()) == (0, 1)
    assert gather("value") == ["value"]
    assert together(lambda: 3) == [3]


def test_an_error_comes_out_as_it_was_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        together(lambda: 1 // 0)


def test_what_hangs_beyond_its_deadline_ends_the_process_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    codes: list[int] = []
    monkeypatch.setattr(deadline.os, "_exit", lambda code: (codes.append(code), ended.set()))
    with ends_within(0.01, "the update", "rollout.sampler.update_deadline_s"):
        assert ended.wait(10)
    said = capsys.readouterr().err
    assert codes == [1]
    assert "the update to end within 0.01 s (`rollout.sampler.update_deadline_s`)" in said
    assert "it waits in wait" in said
    assert "--ckpt_path last" in said


def test_what_ends_in_time_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(deadline.os, "_exit", codes.append)
    before = threading.active_count()
    for deadline_s in (30.0, math.inf):
        with ends_within(deadline_s, "the update", "key"):
            pass
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(5)
    assert codes == []
    assert threading.active_count() <= before


def test_plain_parameters_need_no_gathering() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    assert not is_partitioned(parameter)
    with gathered([parameter], writes=True):
        assert parameter.sum() == 2


@pytest.mark.slow
def test_a_run_that_goes_back_repeats_its_updates_to_the_bit_and_goes_on(tmp_path: Path) -> None:
    callback = GoesBack()
    module = {"llds_penalty": LLDSPenalty(anchor="lagged", anchor_lag=1), "optimization": falling()}
    run = scenario(tmp_path, AdamWAgent, callback, iterations=4, every=2, module=module).fit()
    assert callback.gaps == [0.0] * 4
    # three optimizer steps per iteration, four iterations: the rate falls linearly from 1e-3 at 0 to 0 at 12
    assert callback.steps == [(9, pytest.approx(2.5e-4)), (6, pytest.approx(5e-4)), (6, pytest.approx(5e-4))]
    assert run.module.iteration == 4
    assert list(logged(run)) == ["1.0", "2.0", "3.0", "4.0"]
