"""The canary: what it asks, when it raises, and that no weight can change much without it."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from llds.errors import WeightUpdateError
from llds.paths import resolve_path
from llds.samplers.canary import canary_request, canary_trajectory, check_canary, tolerance
from llds.types import Completion, SamplingParams


def test_the_prompt_is_fixed_varied_and_fits() -> None:
    for vocabulary, room in ((8192, 512), (151936, 4096), (50, 512), (8191, 40), (2, 8)):
        request = canary_request(vocabulary, room, SamplingParams())
        assert request == canary_request(vocabulary, room, SamplingParams())
        assert len(request.token_ids) + request.max_tokens <= room
        assert all(0 <= token < vocabulary for token in request.token_ids)
    assert len(set(canary_request(8192, 512, SamplingParams()).token_ids)) > 80


def test_its_answer_is_a_trajectory_that_can_be_scored() -> None:
    request = canary_request(100, 64, SamplingParams(0.7))
    trajectory = canary_trajectory(request, Completion([3, 4], [-1.0, -2.0], "length"))
    assert trajectory.token_ids == [*request.token_ids, 3, 4]
    assert trajectory.behavior_log_probs[-2:] == [-1.0, -2.0]


def test_the_coarser_dtype_decides_the_tolerance() -> None:
    assert tolerance("float32", "float32") < tolerance("float32", "bfloat16") == tolerance("bfloat16", "float32")


def test_the_largest_difference_decides() -> None:
    assert check_canary("the engine", [-1.0, -2.0], [-1.5, -2.25], 0.5) == 0.5
    with pytest.raises(WeightUpdateError, match=r"the engine.*difference of 0\.5"):
        check_canary("the engine", [-1.0, -2.0], [-1.5, -2.25], 0.49)


@pytest.mark.parametrize("behavior", [[math.nan], []])
def test_what_is_not_a_number_does_not_pass(behavior: list[float]) -> None:
    with pytest.raises(WeightUpdateError):
        check_canary("the engine", behavior, [-1.0] * len(behavior), 1.0)


@torch.no_grad()
def test_every_tensor_of_the_policy_shows_in_it() -> None:
    model = AutoModelForCausalLM.from_pretrained(resolve_path("llds:quickstart/policy"), dtype=torch.float32)
    request = canary_request(8192, 512, SamplingParams())
    ids = torch.tensor([request.token_ids + list(range(200, 200 + request.max_tokens))])

    def scores() -> torch.Tensor:
        logits = model(ids).logits[0, len(request.token_ids) - 1 : -1]
        return logits.log_softmax(-1)[range(request.max_tokens), ids[0, len(request.token_ids) :]]

    right, generator = scores(), torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        before = parameter.clone()
        parameter += 0.05 * before.std().clamp(min=0.1) * torch.randn(before.shape, generator=generator)
        gap = float((scores() - right).abs().max())
        parameter.copy_(before)
        assert gap > tolerance("float32"), name
