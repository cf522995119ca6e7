"""What contexts share: found right, computed once, and without a trace in what is sampled."""

import asyncio

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from llds.samplers import SampleRequest, TransformersSampler
from llds.samplers.transformers.prefixes import shared_prefixes
from llds.types import Completion, SamplingParams
from tests.tiny_policy import random_policy

INSTRUCTION, QUESTION, OTHER = list(range(10, 30)), list(range(40, 52)), list(range(60, 71))
PROMPTS = [INSTRUCTION + QUESTION, INSTRUCTION + OTHER]


def found(contexts: list[list[int]]) -> set[tuple[tuple[int, ...], int, int]]:
    """Rows, length and depth of each prefix."""
    prefixes = shared_prefixes(dict(enumerate(contexts)))
    return {(tuple(sorted(prefix.rows)), prefix.length, prefix.depth) for prefix in prefixes}


def test_groups_share_their_prompt_and_all_share_the_instruction() -> None:
    contexts = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    # The instruction's 20 tokens, then all but the last of 12 and of 11: that one goes through the model in each row.
    assert found(contexts) == {((0, 1, 2, 3, 4), 20, 0), ((0, 2), 31, 1), ((1, 3, 4), 30, 1)}


def test_a_context_within_another_still_has_a_last_token_to_compute() -> None:
    assert found([INSTRUCTION, INSTRUCTION + QUESTION, INSTRUCTION + QUESTION]) == {((0, 1, 2), 19, 0), ((1, 2), 31, 1)}


def test_what_few_tokens_share_is_not_worth_a_forward() -> None:
    assert found([INSTRUCTION[:7] + QUESTION, INSTRUCTION[:7] + OTHER]) == set()
    assert found([INSTRUCTION[:8] + QUESTION, INSTRUCTION[:8] + OTHER]) == {((0, 1), 8, 0)}
    assert found([INSTRUCTION]) == set()


def test_rows_of_random_contexts_agree_on_what_they_share() -> None:
    draw = np.random.default_rng(0)
    for _ in range(30):
        contexts = [draw.integers(0, 2, size=draw.integers(1, 60)).tolist() for _ in range(12)]
        contexts += [contexts[0] + [2, 3], contexts[1][:20] + contexts[2]]
        for prefix in shared_prefixes(dict(enumerate(contexts))):
            beginnings = {tuple(contexts[row][: prefix.length]) for row in prefix.rows}
            assert len(beginnings) == 1
            assert len(prefix.rows) > 1
            assert all(len(contexts[row]) > prefix.length for row in prefix.rows)
            if prefix.parent is not None:
                assert set(prefix.rows) <= set(prefix.parent.rows)
                assert prefix.length >= prefix.parent.length + 8


def sample(sampler: TransformersSampler, contexts: list[list[int]], params: SamplingParams) -> list[Completion]:
    requests = [
        SampleRequest(row, context, 4 + row % 3, ("</answer>",), params, (1, row))
        for row, context in enumerate(contexts)
    ]

    async def together() -> list[Completion]:
        return await asyncio.gather(*(sampler.sample(each) for each in requests))

    return asyncio.run(together())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sharing_computes_each_prompt_once_and_changes_no_token(
    tokenizer: PreTrainedTokenizerFast, temperature: float
) -> None:
    model = random_policy(tokenizer)
    size = len(tokenizer)
    contexts = [[token % size for token in prompt] for prompt in PROMPTS for _ in range(8)]
    completions, computed = {}, {}
    for shares in (True, False):
        sampler = TransformersSampler(share_prefixes=shares)
        sampler.attach(model, tokenizer)
        completions[shares] = sample(sampler, contexts, SamplingParams(temperature))
        computed[shares] = sampler.forward_tokens
    # Each prompt's tokens but the last in every row, against once: 20 of the instruction, 11 and 10 of the questions.
    assert computed[False] - computed[True] == 8 * 31 + 8 * 30 - (20 + 11 + 10)
    for one, other in zip(completions[True], completions[False], strict=True):
        assert one.token_ids == other.token_ids
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)
