"""Going back to a checkpoint in mid-run, in one process; on two ranks it is in tests/integration/test_two_ranks.py."""

from pathlib import Path

import pytest

from llds.losses import LLDSPenalty
from tests.integration.scenarios import AdamWAgent, GoesBack, falling, logged, scenario


def test_a_run_that_goes_back_repeats_its_updates_to_the_bit_and_goes_on(tmp_path: Path) -> None:
    callback = GoesBack()
    module = {"llds_penalty": LLDSPenalty(anchor="lagged", anchor_lag=1), "optimization": falling()}
    run = scenario(tmp_path, AdamWAgent, callback, iterations=4, every=2, module=module).fit()
    assert callback.gaps == [0.0] * 4
    # three optimizer steps per iteration, four iterations: the rate falls linearly from 1e-3 at 0 to 0 at 12
    assert callback.steps == [(9, pytest.approx(2.5e-4)), (6, pytest.approx(5e-4)), (6, pytest.approx(5e-4))]
    assert run.module.iteration == 4
    assert list(logged(run)) == ["1.0", "2.0", "3.0", "4.0"]
