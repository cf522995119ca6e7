"""A budget by hand arithmetic: times are given, no clock is read."""

from llds.callbacks.report import TimeBudget


def test_work_is_allowed_once_all_of_it_fits_into_its_share() -> None:
    budget = TimeBudget(share=0.01, started=1000.0, expected=5.0)
    assert not budget.allows(1499.0)  # 4.99 s
    assert budget.allows(1500.0)
    budget.charge(3.0)  # the next is expected to take 3 s, too: 6 s in all are 1% of 600 s
    assert not budget.allows(1599.0)
    assert budget.allows(1600.0)
    budget.charge(4.0)  # 3 + 4 + 4 s
    assert not budget.allows(2099.0)
    assert budget.allows(2100.0)


def test_many_short_iterations_never_exceed_the_share_and_long_ones_get_all() -> None:
    for iteration, pages in ((1.0, 4), (3600.0, 80)):
        budget, now, written = TimeBudget(0.01, 0.0, 5.0), 0.0, 0
        for number in range(1, 2001):
            now += iteration
            if number % 25 == 0 and budget.allows(now):
                now += 5.0
                budget.charge(5.0)
                written += 1
            assert budget.spent <= 0.01 * now
        assert written == pages
