"""Healthy: said nothing when it was made, and nothing for some iterations after; the newest stay, in bounded number."""

import pytest

from llds.callbacks.checkpoint.healthy import HealthyCheckpoints


def watch(levels: str, quiet: int = 2, keep: int = 2, every: int = 1) -> HealthyCheckpoints:
    """Iterations from 1 on, "." quiet and "x" not, each `every`-th saved."""
    healthy = HealthyCheckpoints(quiet, keep)
    for iteration, letter in enumerate(levels, 1):
        healthy.note(iteration, is_quiet=letter == ".")
        if iteration % every == 0:
            healthy.saved(iteration, is_quiet=letter == ".")
        assert len(healthy.needed) <= max(keep, 1) + 2
    return healthy


@pytest.mark.parametrize(
    ("levels", "healthy", "pending"),
    [
        (".", [], [1]),
        ("..", [], [1, 2]),
        ("...", [1], [2, 3]),  # iterations 2 and 3 were quiet
        (".x..", [], [3, 4]),  # 1 was followed by trouble
        ("x..", [], [2, 3]),
        (".....x", [2, 3], []),
        (".......", [4, 5], [6, 7]),  # the oldest goes
    ],
)
def test_which_are_healthy(levels: str, healthy: list[int], pending: list[int]) -> None:
    found = watch(levels)
    assert (found.healthy, found.pending) == (healthy, pending)
    assert found.needed == {*healthy, *pending} | (set() if healthy else {levels.index(".") + 1})


def test_between_two_checkpoints_health_is_found_at_the_iteration_it_is_due() -> None:
    assert watch(".......", quiet=2, every=5).healthy == [5]
    assert watch("......", quiet=2, every=5).healthy == []


def test_where_the_wait_is_longer_than_the_way_between_two_the_oldest_is_decided_first() -> None:
    found = watch(".....", quiet=4)
    assert (found.healthy, found.pending) == ([1], [4, 5])  # 2 and 3 were in between


def test_the_newest_is_taken_and_next_time_the_one_before() -> None:
    found = watch(".....x")
    assert [found.take({2, 3}) for _ in range(3)] == [3, 2, 2]
    assert watch(".....x").take({2}) == 2  # 3 is no longer on disk
    assert watch(".....x").take(set()) is None
    assert watch("xx").take({1, 2}) is None


def test_where_none_is_healthy_the_first_is_taken_as_often_as_wanted() -> None:
    found = watch("..x.x", quiet=3)
    assert found.needed == {1}
    assert [found.take({1}) for _ in range(3)] == [1, 1, 1]
    assert found.take(set()) is None
    assert 1 not in watch("..x.....", quiet=3).needed  # now there is a healthy one


def test_where_there_is_nothing_to_go_back_to_a_quiet_iteration_is_wanted() -> None:
    assert HealthyCheckpoints(2, 1).lacks(is_quiet=True)
    assert not HealthyCheckpoints(2, 1).lacks(is_quiet=False)
    assert not HealthyCheckpoints(2, 0).lacks(is_quiet=True)
    assert not watch(".").lacks(is_quiet=True)
    assert watch(".x").lacks(is_quiet=True)


def test_none_is_kept_where_none_is_wanted() -> None:
    assert watch("......", keep=0).needed == set()


def test_what_it_knows_survives() -> None:
    found, again = watch("......"), HealthyCheckpoints(2, 2)
    again.load_state_dict(found.state_dict())
    assert (again.healthy, again.pending, again.first) == (found.healthy, found.pending, found.first)
