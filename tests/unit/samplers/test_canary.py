"""The canary: what it asks, when it raises, and that no weight can change much without it."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from llds.errors import ConfigurationError, WeightUpdateError
from llds.modules.policy.tokenizer import load_tokenizer
from llds.paths import resolve_path
from llds.samplers.canary import Canary, CanaryLimits, canary_requests, canary_trajectory, mean_gap
from llds.types import Completion, SamplingParams

POLICY = "llds:quickstart/policy"


def canary(limits: CanaryLimits = CanaryLimits(), *dtypes: str) -> Canary:
    """A canary of the quickstart's policy."""
    return Canary(limits, dtypes or ("bfloat16", "bfloat16"), load_tokenizer(POLICY), 512, SamplingParams())


def test_the_requests_are_fixed_varied_and_fit() -> None:
    for text, room in (([*range(300)], 512), ([5], 512), ([*range(40)], 40), ([1, 2], 8)):
        requests = canary_requests(text, room, SamplingParams())
        assert requests == canary_requests(text, room, SamplingParams())
        assert all(len(one.token_ids) + one.max_tokens <= room for one in requests)
    requests = canary_requests(range(300), 512, SamplingParams())
    assert sum(one.max_tokens for one in requests) == 256
    assert len({one.seed for one in requests}) == len({tuple(one.token_ids) for one in requests}) == 4


def test_its_texts_are_two_and_natural_for_the_tokenizer() -> None:
    first, second = canary().requests
    assert first != second
    assert min(len(set(one.token_ids)) for one in [*first, *second]) > 50


def test_its_answer_is_a_trajectory_that_can_be_scored() -> None:
    request = canary_requests(range(100), 64, SamplingParams(0.7))[0]
    trajectory = canary_trajectory(request, Completion([3, 4], [-1.0, -2.0], "length"))
    assert trajectory.token_ids == [*request.token_ids, 3, 4]
    assert trajectory.behavior_log_probs[-2:] == [-1.0, -2.0]


def test_the_coarser_dtype_decides_the_tolerance() -> None:
    limits = CanaryLimits(float32=0.01, bfloat16=0.5)
    found = [limits.tolerance(*pair) for pair in (("float32", "float64"), ("float32", "bfloat16"))]
    assert found == [0.01, 0.5]


def test_the_mean_decides_and_one_outlier_does_not() -> None:
    ours = [-1.0] * 256
    assert mean_gap([-1.0] * 255 + [-1.3], ours) == pytest.approx(0.3 / 256)
    assert math.isnan(mean_gap([], []))
    assert math.isnan(mean_gap([math.nan, -1.0], [-1.0, -1.0]))


def test_the_runs_own_gaps_narrow_the_limit_but_never_widen_it() -> None:
    one = canary()
    assert one.limit == 0.1
    for gap in (0.01, 0.012, 0.009, 0.011, 0.01):
        one.remember(gap)
    assert one.limit == pytest.approx(0.03)
    assert not one.is_in_order({"the engine": 0.05})
    for _ in range(20):
        one.remember(0.08)
    assert one.limit == 0.1
    for _ in range(20):
        one.remember(1e-9)
    assert one.limit == pytest.approx(0.01)


@pytest.mark.parametrize("gap", [0.11, math.nan])
def test_what_is_not_in_order_says_how_far_it_is_and_which_key_decides(gap: float) -> None:
    with pytest.raises(WeightUpdateError, match=r"the engine.*0\.1 nats.*`rollout\.canary\.bfloat16`"):
        canary().check({"another": 0.01, "the engine": gap})
    canary().check({"another": 0.01})


@pytest.mark.parametrize("settings", [{"float32": 0.0}, {"bfloat16": math.inf}, {"rise": 1.0}])
def test_limits_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"`rollout\.canary`"):
        CanaryLimits(**settings)


@pytest.mark.slow
@torch.no_grad()
def test_every_tensor_of_the_policy_shows_in_it() -> None:
    model = AutoModelForCausalLM.from_pretrained(resolve_path(POLICY), dtype=torch.float32)
    requests = canary().requests[0]
    ids = torch.tensor([one.token_ids + list(range(200, 200 + one.max_tokens)) for one in requests])

    def scores() -> torch.Tensor:
        logits = model(ids).logits[:, -1 - requests[0].max_tokens : -1].log_softmax(-1)
        return logits.gather(-1, ids[:, -requests[0].max_tokens :, None])

    right, generator = scores(), torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        before = parameter.clone()
        parameter += 0.05 * before.std().clamp(min=0.1) * torch.randn(before.shape, generator=generator)
        gap = float((scores() - right).abs().mean())
        parameter.copy_(before)
        assert gap > CanaryLimits().float32, name
