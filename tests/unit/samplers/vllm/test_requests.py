"""Requests and completions in vLLM's terms."""

import pytest

from llds.errors import SamplerError
from llds.samplers import SampleRequest
from llds.samplers.vllm.requests import completion, sampling_params
from llds.types import Completion, SamplingParams


def request(seed: tuple[int, ...] = (0,)) -> SampleRequest:
    return SampleRequest(0, [1, 2], 7, ("</a>", "</b>"), SamplingParams(0.7, 0.9, 20), seed)


def test_the_law_the_limits_and_the_ends_are_passed_on() -> None:
    params = sampling_params(request(), (5, 7))
    assert {name: params[name] for name in ("temperature", "top_p", "top_k", "max_tokens", "stop")} == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 20,
        "max_tokens": 7,
        "stop": ["</a>", "</b>"],
    }
    assert (params["stop_token_ids"], params["ignore_eos"], params["logprobs"]) == ([5, 7], True, 0)
    assert params["skip_special_tokens"] is False
    assert sampling_params(request(), ())["stop_token_ids"] == []


def test_seeds_are_fixed_distinct_and_in_range() -> None:
    seeds = [
        sampling_params(request((0, iteration, 5, turn)), (5,))["seed"] for iteration in range(30) for turn in (0, 1)
    ]
    assert len(set(seeds)) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds[0] == sampling_params(request((0, 0, 5, 0)), (5,))["seed"]


VERSIONS = [{"version": "4", "start": 0, "end": 2}]


@pytest.mark.parametrize(
    ("finish", "stop", "reason"),
    [("stop", "</a>", "stop"), ("stop", 5, "eos"), ("stop", None, "eos"), ("length", None, "length")],
)
def test_why_an_action_ended(finish: str, stop: int | str | None, reason: str) -> None:
    done = completion([8, 9], [-1.0, -2.0], finish, stop, VERSIONS, 4)
    assert done == Completion([8, 9], [-1.0, -2.0], reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("token_ids", "log_probs", "finish", "versions", "message"),
    [
        ([8], [-1.0], "abort", VERSIONS, "abort"),
        ([8, 9], [-1.0], "stop", VERSIONS, "got 1 for 2"),
        ([], [], "stop", VERSIONS, "got 0 for 0"),
        ([8], [-1.0], "stop", [{"version": "3"}], "version 4, got one by \\['3'\\]"),
        ([8], [-1.0], "stop", [{"version": "3"}, {"version": "4"}], "\\['3', '4'\\]"),
        ([8], [-1.0], "stop", [], "version 4"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    token_ids: list[int], log_probs: list[float], finish: str, versions: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(SamplerError, match=message):
        completion(token_ids, log_probs, finish, None, versions, 4)
