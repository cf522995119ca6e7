"""The default sampler against plain forwards of a real model."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from llds.errors import ConfigurationError, SamplerError
from llds.samplers import SampleRequest, TransformersSampler
from llds.samplers.transformers.key_values import cache_argument
from llds.types import Completion, SamplingParams
from tests.tiny_policy import chain_policy, number, random_policy

CONTEXTS = ("capital", "What is the capital of Norway?", "What is", "<think> Norway </think> What", "is the of")
OBSERVATIONS = (" Norway", " the capital of Norway is the capital.", " of", " What? What?", " is")
GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope="module")
def policy(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    return random_policy(tokenizer)


def sampler_of(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, **settings: Any) -> TransformersSampler:
    sampler = TransformersSampler(**settings)
    sampler.attach(model, tokenizer)
    return sampler


def request(token_ids: list[int], trajectory: int = 0, **changes: Any) -> SampleRequest:
    plain = SampleRequest(trajectory, token_ids, 8, ("</answer>",), SamplingParams(), (0, trajectory))
    return replace(plain, **changes)


def sample(sampler: TransformersSampler, requests: list[SampleRequest]) -> list[Completion]:
    async def together() -> list[Completion]:
        return await asyncio.gather(*(sampler.sample(each) for each in requests))

    return asyncio.run(together())


def take_turns(
    sampler: TransformersSampler, tokenizer: PreTrainedTokenizerFast, params: SamplingParams = SamplingParams()
) -> tuple[list[list[int]], list[list[tuple[int, Completion]]]]:
    """Three turns of ragged trajectories; returns their tokens and, for each, (first position, action) by turn."""
    contexts = [tokenizer.encode(text) for text in CONTEXTS]
    actions: list[list[tuple[int, Completion]]] = [[] for _ in CONTEXTS]
    for trajectory in range(len(CONTEXTS)):
        sampler.open_trajectory(trajectory)
    for turn in range(3):
        requests = [
            request(list(ids), row, max_tokens=5 + 3 * row, sampling=params, seed=(7, row, turn), stop_strings=("e",))
            for row, ids in enumerate(contexts)
        ]
        for row, completion in enumerate(sample(sampler, requests)):
            actions[row].append((len(contexts[row]), completion))
            contexts[row] += completion.token_ids + tokenizer.encode(OBSERVATIONS[(row + turn) % len(OBSERVATIONS)])
    for trajectory in range(len(CONTEXTS)):
        sampler.close_trajectory(trajectory)
    return contexts, actions


@torch.no_grad()
def teacher_forced(model: Qwen2ForCausalLM, ids: list[int], temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of every token given those before it, ``[T, vocabulary]``; row t is about token t + 1."""
    return (model(torch.tensor([ids])).logits[0] / temperature).log_softmax(dim=-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("keep_cache", [True, False])
def test_log_probs_are_those_of_one_forward_over_the_whole_trajectory(
    policy: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, keep_cache: bool, temperature: float
) -> None:
    sampler = sampler_of(policy, tokenizer, keep_cache=keep_cache)
    contexts, actions = take_turns(sampler, tokenizer, SamplingParams(temperature))
    lengths, gap = set(), 0.0
    for ids, turns in zip(contexts, actions, strict=True):
        expected = teacher_forced(policy, ids, temperature)
        for start, completion in turns:
            lengths.add(len(completion.token_ids))
            for position, (token, log_prob) in enumerate(
                zip(completion.token_ids, completion.log_probs, strict=True), start
            ):
                assert ids[position] == token
                gap = max(gap, abs(float(expected[position - 1, token]) - log_prob))
    assert gap <= 1e-5
    assert len(lengths) > 3  # rows ended at different tokens, so the caches had holes


def test_the_cache_changes_no_token(policy: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    with_cache, without = (
        take_turns(sampler_of(policy, tokenizer, keep_cache=keep), tokenizer)[0] for keep in (True, False)
    )
    assert with_cache == without


@pytest.mark.parametrize("keep_cache", [True, False])
def test_with_the_cache_each_token_goes_through_the_model_once(
    policy: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, keep_cache: bool
) -> None:
    sampler = sampler_of(policy, tokenizer, keep_cache=keep_cache)
    sampler.open_trajectory(0)
    ids, once, again = tokenizer.encode(CONTEXTS[1]), 0, 0
    for turn in range(3):
        completion = sample(sampler, [request(list(ids), seed=(turn,))])[0]
        again += len(ids) + len(completion.token_ids) - 1
        ids += completion.token_ids
        once = len(ids) - 1  # nothing has come after the last token yet
        ids += tokenizer.encode(OBSERVATIONS[1])
    assert sampler.forward_tokens == (once if keep_cache else again)
    assert once < again


def test_an_action_does_not_depend_on_its_batch(policy: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    requests = [request(tokenizer.encode(text), row, max_tokens=4 + row) for row, text in enumerate(CONTEXTS * 4)]
    together = sample(sampler_of(policy, tokenizer), requests)
    in_batches_of_three = sample(sampler_of(policy, tokenizer, max_batch_size=3), requests)
    alone = [sample(sampler_of(policy, tokenizer), [each])[0] for each in requests]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert [c.token_ids for c in together] == [c.token_ids for c in in_batches_of_three]
    for one, other in zip(together, alone, strict=True):
        assert one.stop_reason == other.stop_reason
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


def test_a_batch_is_never_larger_than_its_limit(policy: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    sizes: set[int] = set()
    hook = policy.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.add(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    try:
        sample(
            sampler_of(policy, tokenizer, max_batch_size=4),
            [request(tokenizer.encode("What"), row) for row in range(10)],
        )
    finally:
        hook.remove()
    assert max(sizes) == 4


def test_equal_seeds_sample_the_same_to_the_bit_and_others_do_not(
    policy: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    first, second = (take_turns(sampler_of(policy, tokenizer), tokenizer) for _ in range(2))
    assert first == second
    ids = tokenizer.encode(CONTEXTS[1])
    sampler = sampler_of(policy, tokenizer)
    one, other = sample(sampler, [request(ids, 0, seed=(1, 0)), request(ids, 1, seed=(1, 1))])
    assert one.token_ids != other.token_ids


LAW = {"a": 2.0, "b": 1.5, "c": 1.0, "d": 0.5, "e": 0.0, "f": -1.0, "g": -2.0}


def law_of(params: SamplingParams) -> np.ndarray:
    """The sampling law over the keys of LAW, computed without the library."""
    logits = np.array(list(LAW.values())) / params.temperature
    p = np.exp(logits) / np.exp(logits).sum()
    kept = np.ones(len(p), dtype=bool)
    if params.top_k:
        kept &= np.arange(len(p)) < params.top_k  # LAW is in descending order
    if params.top_p < 1:
        kept &= np.concatenate([[0.0], np.cumsum(p)[:-1]]) < params.top_p
    return np.where(kept, p, 0.0) / p[kept].sum()


def chi_square_p(counts: list[int], law: np.ndarray) -> float:
    """Probability of counts at least this far from a law (Pearson's test)."""
    expected = law * sum(counts)
    statistic = torch.tensor(((np.array(counts) - expected) ** 2 / expected).sum())
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2, dtype=torch.float64), statistic / 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=2.0),
        SamplingParams(top_k=3),
        SamplingParams(top_p=0.7),
    ],
    ids=["plain", "cold", "hot", "top_k", "top_p"],
)
def test_tokens_are_drawn_as_often_as_the_law_says(tokenizer: PreTrainedTokenizerFast, params: SamplingParams) -> None:
    sampler = sampler_of(chain_policy(tokenizer, {"x": LAW}), tokenizer, max_batch_size=2000)
    context = [number(tokenizer, "x")]
    requests = [request(context, row, max_tokens=1, sampling=params, seed=(3, row)) for row in range(2000)]
    completions = sample(sampler, requests)
    expected = law_of(params)
    names = {number(tokenizer, token): index for index, token in enumerate(LAW)}
    drawn = Counter(names[completion.token_ids[0]] for completion in completions)
    possible = [index for index, p in enumerate(expected) if p > 0]
    assert set(drawn) <= set(possible)
    counts = [drawn[index] for index in possible]
    assert chi_square_p(counts, expected[possible]) > 0.001
    for completion in completions[:200]:
        assert completion.log_probs[0] == pytest.approx(np.log(expected[names[completion.token_ids[0]]]), abs=1e-5)


def test_the_chi_square_test_sees_a_wrong_temperature(tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = sampler_of(chain_policy(tokenizer, {"x": LAW}), tokenizer, max_batch_size=2000)
    requests = [request([number(tokenizer, "x")], row, max_tokens=1, seed=(3, row)) for row in range(2000)]
    drawn = Counter(completion.token_ids[0] for completion in sample(sampler, requests))
    counts = [drawn[number(tokenizer, token)] for token in LAW]
    assert chi_square_p(counts, law_of(SamplingParams(temperature=1.3))) < 0.001


def test_temperature_zero_takes_the_likeliest_token(
    policy: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    contexts, actions = take_turns(sampler_of(policy, tokenizer), tokenizer, GREEDY)
    for ids, turns in zip(contexts, actions, strict=True):
        expected = teacher_forced(policy, ids)
        for start, completion in turns:
            end = start + len(completion.token_ids)
            assert ids[start:end] == expected[start - 1 : end - 1].argmax(dim=-1).tolist()


def test_a_stop_string_that_ends_inside_a_token_keeps_the_whole_token(tokenizer: PreTrainedTokenizerFast) -> None:
    chain = {"x": {" capital": 0.0}, " capital": {" of": 0.0}, " of": {"x": 0.0}}
    sampler = sampler_of(chain_policy(tokenizer, chain), tokenizer)
    context = [number(tokenizer, "x")]
    completion = sample(sampler, [request(context, sampling=GREEDY, stop_strings=("l o",))])[0]
    assert tokenizer.decode(completion.token_ids) == " capital of"
    assert completion.stop_reason == "stop"


SPELLED = {"z": {"<": 0.0}, "<": {"/": 0.0}, "/": {"a": 0.0}, "a": {">": 0.0}, ">": {"q": 0.0}, "q": {"w": 0.0}}


def test_a_tag_is_found_across_the_end_of_a_stretch(tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = sampler_of(chain_policy(tokenizer, {**SPELLED, "w": {"</s>": 0.0}}), tokenizer)
    short, long = [number(tokenizer, "q")], [number(tokenizer, "z")]
    # Seven of twelve rows end after two tokens, when the others have written "</".
    requests = [request(short if row < 7 else long, row, sampling=GREEDY, stop_strings=("</a>",)) for row in range(12)]
    completions = sample(sampler, requests)
    assert [tokenizer.decode(c.token_ids) for c in completions] == ["w</s>"] * 7 + ["</a>"] * 5
    assert [c.stop_reason for c in completions] == ["eos"] * 7 + ["stop"] * 5


def test_a_context_that_ends_like_a_tag_completes_none(tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = sampler_of(chain_policy(tokenizer, {**SPELLED, "w": {"</s>": 0.0}}), tokenizer)
    context = [number(tokenizer, token) for token in "</a"]
    completion = sample(sampler, [request(context, sampling=GREEDY, stop_strings=("</a>",))])[0]
    assert tokenizer.decode(completion.token_ids) == ">qw</s>"
    assert completion.stop_reason == "eos"


def test_every_row_ends_at_its_own_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = sampler_of(chain_policy(tokenizer, {"x": {"y": 0.0}, "y": {"x": 0.0}}), tokenizer)
    requests = [request([number(tokenizer, "x")], row, max_tokens=row + 1, sampling=GREEDY) for row in range(20)]
    completions = sample(sampler, requests)
    assert [len(c.token_ids) for c in completions] == list(range(1, 21))
    assert {c.stop_reason for c in completions} == {"length"}
    assert {len(c.log_probs) == len(c.token_ids) for c in completions} == {True}


def test_settings_saved_with_the_model_do_not_bend_the_law(tokenizer: PreTrainedTokenizerFast) -> None:
    model = random_policy(tokenizer)
    requests = [request(tokenizer.encode(text), row) for row, text in enumerate(CONTEXTS)]
    plain = sample(sampler_of(model, tokenizer), requests)
    model.generation_config.repetition_penalty = 3.0
    model.generation_config.suppress_tokens = [c.token_ids[0] for c in plain]
    assert sample(sampler_of(model, tokenizer), requests) == plain
    assert model.generation_config.repetition_penalty == 3.0


@pytest.mark.parametrize("is_training", [True, False])
def test_the_model_is_left_in_the_mode_it_was_in(tokenizer: PreTrainedTokenizerFast, is_training: bool) -> None:
    model = random_policy(tokenizer).train(is_training)
    sample(sampler_of(model, tokenizer), [request(tokenizer.encode("What"))])
    assert model.training is is_training


def test_a_model_that_fails_fails_its_batch_and_not_the_next(
    policy: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    sampler = sampler_of(policy, tokenizer)
    with pytest.raises(SamplerError, match="IndexError"):
        sample(sampler, [request([len(tokenizer) + 5], 0), request(tokenizer.encode("What"), 1)])
    assert len(sample(sampler, [request(tokenizer.encode("What"))])[0].token_ids) == 8


def test_new_weights_use_no_old_cache(tokenizer: PreTrainedTokenizerFast) -> None:
    model = random_policy(tokenizer)
    sampler = sampler_of(model, tokenizer)
    sampler.open_trajectory(0)
    ids = tokenizer.encode(CONTEXTS[1])
    ids += sample(sampler, [request(list(ids))])[0].token_ids + tokenizer.encode(OBSERVATIONS[1])
    model.load_state_dict(random_policy(tokenizer, seed=1).state_dict())
    sampler.update_weights(model.named_parameters(), version=3)
    fresh = sampler_of(model, tokenizer)
    assert sample(sampler, [request(ids)]) == sample(fresh, [request(ids)])
    assert sampler.policy_version == 3


def test_a_context_that_does_not_go_on_from_the_cached_one_uses_no_cache(
    policy: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    sampler = sampler_of(policy, tokenizer)
    sampler.open_trajectory(0)
    sample(sampler, [request(tokenizer.encode(CONTEXTS[1]))])
    other = [request(tokenizer.encode(CONTEXTS[3] * 3))]
    assert sample(sampler, other) == sample(sampler_of(policy, tokenizer), other)


def test_a_cancelled_action_stops_the_model_and_leaves_the_next_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    running = threading.Event()

    @contextmanager
    def tell() -> Iterator[None]:
        running.set()
        yield

    sampler = TransformersSampler()
    sampler.attach(chain_policy(tokenizer, {"x": {"y": 0.0}, "y": {"x": 0.0}}), tokenizer, tell)
    context = [number(tokenizer, "x")]

    async def interrupt() -> Completion:
        endless = asyncio.create_task(sampler.sample(request(context, max_tokens=1_000_000, sampling=GREEDY)))
        await asyncio.to_thread(running.wait)
        endless.cancel()
        return await asyncio.wait_for(sampler.sample(request(context, max_tokens=3, sampling=GREEDY)), timeout=10)

    assert tokenizer.decode(asyncio.run(interrupt()).token_ids) == "yxy"


def test_a_sampler_without_a_model_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="attach"):
        sample(TransformersSampler(), [request([1])])


@pytest.mark.parametrize("settings", [{"max_batch_size": 0}, {"max_wait_s": -1.0}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="max_batch_size"):
        TransformersSampler(**settings)


def test_keys_and_values_are_handed_over_under_the_name_that_a_model_takes(policy: Qwen2ForCausalLM) -> None:
    class Renamed(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, cache: object = None) -> None: ...

    assert cache_argument(Renamed()) == "cache"
    assert cache_argument(policy) in signature(policy.forward).parameters
