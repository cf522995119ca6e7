"""The loader: how many batches, in which order, and where a restored one goes on."""

from collections import Counter
from collections.abc import Callable
from itertools import chain, islice, repeat
from typing import Any

import pytest

from llds.batches.rollout_batch import RolloutBatch
from llds.data.loader import PromptLoader
from llds.errors import ConfigurationError
from llds.types import Prompt

MakePrompts = Callable[[int], list[Prompt]]


def ids(batches: list[RolloutBatch]) -> list[list[int]]:
    return [[int(prompt.prompt_id) for prompt in batch.prompts] for batch in batches]


def test_one_pass_takes_every_prompt_once_and_keeps_the_rest(make_prompts: MakePrompts) -> None:
    loader = PromptLoader(make_prompts(7), batch_size=3)
    assert ids(list(loader)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(loader) == 3
    assert ids(list(loader)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_iterations_give_full_batches_across_passes(make_prompts: MakePrompts) -> None:
    loader = PromptLoader(make_prompts(5), batch_size=3, iterations=4)
    assert len(loader) == 4
    assert ids(list(loader)) == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]
    assert ids(list(loader))[0] == [2, 3, 4]  # the next epoch goes on


def test_a_batch_may_be_larger_than_a_pass(make_prompts: MakePrompts) -> None:
    assert ids(list(PromptLoader(make_prompts(2), batch_size=5, iterations=1))) == [[0, 1, 0, 1, 0]]
    assert ids(list(PromptLoader(make_prompts(2), batch_size=5))) == [[0, 1]]


def test_every_pass_of_a_shuffled_stream_holds_every_prompt_in_an_order_of_its_own(make_prompts: MakePrompts) -> None:
    loader = PromptLoader(make_prompts(10), batch_size=4, iterations=10, shuffle=True, seed=1)
    stream = [number for batch in ids(list(loader)) for number in batch]
    passes = [stream[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    assert Counter(stream) == dict.fromkeys(range(10), 4)


def test_the_order_depends_on_seed_and_pass_alone(make_prompts: MakePrompts) -> None:
    def order(seed: int, pass_number: int, batch_size: int = 2) -> list[int]:
        return PromptLoader(make_prompts(20), batch_size, shuffle=True, seed=seed).order(pass_number)

    assert order(0, 3) == order(0, 3, batch_size=7)
    assert len({tuple(order(seed, number)) for seed in range(3) for number in range(3)}) == 9
    assert order(0, 0)[:5] == [4, 6, 19, 11, 8]  # the same on every machine and in every release


def test_shuffled_epochs_of_one_pass_differ(make_prompts: MakePrompts) -> None:
    loader = PromptLoader(make_prompts(10), batch_size=10, shuffle=True)
    first, second = ids(list(loader)), ids(list(loader))
    assert first != second
    assert sorted(first[0]) == sorted(second[0])


@pytest.mark.parametrize("iterations", [2, 7])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_restored_stream_goes_on_with_the_next_prompt_at_every_position(
    make_prompts: MakePrompts, iterations: int, shuffle: bool
) -> None:
    def fresh() -> PromptLoader:
        return PromptLoader(make_prompts(11), 3, iterations=iterations, shuffle=shuffle, seed=5)

    def take(loader: PromptLoader, count: int) -> list[RolloutBatch]:
        return list(islice(chain.from_iterable(repeat(loader)), count))

    whole = ids(take(fresh(), 20))
    for stop in range(20):
        before, after = fresh(), fresh()
        done = take(before, stop)
        after.load_state_dict(before.state_dict())
        assert ids(done + take(after, 20 - stop)) == whole


def test_further_prompts_come_next_and_the_batches_after_them(make_prompts: MakePrompts) -> None:
    loader = PromptLoader(make_prompts(8), 2, iterations=4, shuffle=True)
    stream = [*loader.order(0), *loader.order(1)]
    batches = iter(loader)
    found = ids([next(batches), next(batches)])
    drawn = [int(one.prompt_id) for one in [*loader.draw(1), *loader.draw(5)]]  # across the border of two passes
    assert [int(one.prompt_id) for one in loader.peek()] == stream[10:12]
    assert [*chain(*found), *drawn, *chain(*ids([*batches]))] == stream[:14]


def test_further_prompts_are_part_of_the_position(make_prompts: MakePrompts) -> None:
    def fresh() -> PromptLoader:
        return PromptLoader(make_prompts(5), 2, iterations=9)

    before, after = fresh(), fresh()
    batches = iter(before)
    next(batches)
    before.draw(3)
    after.load_state_dict(before.state_dict())
    assert ids([*after]) == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4], [0, 1], [2, 3], [4, 0], [1, 2]]
    state = before.state_dict()
    del state["further"]  # as a checkpoint of before has it
    after.load_state_dict(state)
    assert [int(one.prompt_id) for one in after.peek()] == [2, 3]


def test_a_batch_that_is_taken_back_comes_again_with_what_was_drawn_beside_it(make_prompts: MakePrompts) -> None:
    loader = PromptLoader(make_prompts(20), 2, iterations=9)
    batches = iter(loader)
    next(batches)
    loader.draw(1)
    next(batches)  # 3 and 4
    loader.draw(4)
    loader.rewind()
    assert [int(one.prompt_id) for one in loader.peek()] == [3, 4]
    with pytest.raises(ConfigurationError, match="`iterations`"):
        PromptLoader(make_prompts(3), 1).draw(1)


def test_a_restored_pass_is_finished_and_the_next_one_is_whole(make_prompts: MakePrompts) -> None:
    reference = PromptLoader(make_prompts(11), 3, shuffle=True)
    first, second = ids(list(reference)), ids(list(reference))
    for stop in range(1, 4):
        before, after = (PromptLoader(make_prompts(11), 3, shuffle=True) for _ in range(2))
        done = list(islice(before, stop))
        after.load_state_dict(before.state_dict())
        assert ids(done + list(after)) == first
        assert ids(list(after)) == second


def test_asking_for_an_iterator_or_the_order_moves_nothing(make_prompts: MakePrompts) -> None:
    loader = PromptLoader(make_prompts(5), 2, iterations=3)
    next(iter(loader))
    iter(loader)
    loader.order(9)
    assert loader.position == 1


def test_an_evaluation_that_was_left_early_begins_anew(make_prompts: MakePrompts) -> None:
    loader = PromptLoader(make_prompts(6), 2)
    next(iter(loader))
    assert ids(list(loader)) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"prompts": 9}, "number of prompts"),
        ({"batch_size": 3}, "batch_size"),
        ({"seed": 1}, "seed"),
        ({"shuffle": False}, "shuffle"),
        ({"iterations": None}, "use of `iterations`"),
    ],
)
def test_a_state_of_other_prompts_or_another_order_is_refused(
    make_prompts: MakePrompts, change: dict[str, Any], name: str
) -> None:
    settings = {"prompts": 8, "batch_size": 2, "iterations": 5, "shuffle": True, "seed": 0}

    def build(prompts: int, **others) -> PromptLoader:
        return PromptLoader(make_prompts(prompts), **others)

    state = build(**settings).state_dict()
    with pytest.raises(ConfigurationError, match=f"same {name} as the checkpoint"):
        build(**{**settings, **change}).load_state_dict(state)
    build(**{**settings, "iterations": 50}).load_state_dict(state)  # a longer run is fine


def test_a_state_of_other_questions_is_refused(make_prompts: MakePrompts) -> None:
    state = PromptLoader(make_prompts(3), 1).state_dict()
    others = [Prompt(str(i), "Something else?", ("a",)) for i in range(3)]
    with pytest.raises(ConfigurationError, match="prompts checksum"):
        PromptLoader(others, 1).load_state_dict(state)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"batch_size": 1, "iterations": 0}, {"batch_size": -1}])
def test_sizes_below_one_are_refused(make_prompts: MakePrompts, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="to be at least 1"):
        PromptLoader(make_prompts(3), **settings)


def test_no_prompts_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one prompt"):
        PromptLoader([], 1)


def test_a_mixture_goes_on_to_the_prompt_from_its_state(make_prompts: MakePrompts) -> None:
    def build() -> PromptLoader:
        return PromptLoader(make_prompts(12), 5, iterations=4, shuffle=True, sizes=[2, 10], weights=[1, 1])

    loader = build()
    whole = ids([*loader, *loader])
    assert sum(number < 2 for number in [*chain(*whole)][:12]) == 6  # half of the first pass
    loader = build()
    done = [next(iter(loader)) for _ in range(3)]
    resumed = build()
    resumed.load_state_dict(loader.state_dict())
    assert ids(done) + ids([*resumed, *resumed])[:5] == whole
    for other in ([1, 2], None):
        with pytest.raises(ConfigurationError, match="same weights as the checkpoint"):
            PromptLoader(make_prompts(12), 5, iterations=4, shuffle=True, sizes=[2, 10], weights=other).load_state_dict(
                loader.state_dict()
            )
