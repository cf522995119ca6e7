"""The ladder's own bookkeeping: order, what a changed configuration keeps, and what a rung of one's own needs."""

from typing import Any

from llds.callbacks.ladder import CutLearningRate, Ladder, Moment, RollBack, Rung, SkipUpdate, Stop, Warn, When
from llds.monitor import Diagnosis, Level


class Count(Rung):
    """The smallest rung of one's own."""

    def act(self, moment: Moment) -> str:
        """Say so."""
        return "counted"


def climb(ladder: Ladder, levels: dict[int, Level], **asked: Any) -> dict[int, list[str]]:
    """The rungs that act, by iteration, in order."""
    found: dict[int, list[str]] = {}
    for iteration in range(1, max(levels) + 1):
        judged = Diagnosis(iteration, level=levels.get(iteration, "none"))
        due = ladder.due(judged, **asked)
        for number in due:
            ladder.records[number].note(judged)
        if due:
            found[iteration] = [type(ladder.rungs[number]).__name__ for number in due]
    return found


def test_rungs_act_in_the_order_of_the_list_each_by_its_own_time() -> None:
    ladder = Ladder(
        [Warn(), Count(When("alarm")), RollBack(When("alarm", cooldown=2)), Stop(When("alarm", after=3)), SkipUpdate()]
    )
    levels: dict[int, Level] = {2: "warning", 3: "alarm", 4: "alarm", 5: "alarm", 6: "alarm"}
    assert climb(ladder, levels) == {
        2: ["Warn"], 3: ["Warn", "Count", "RollBack"], 5: ["RollBack"], 6: ["Stop"],
    }  # fmt: skip


def test_what_acts_before_the_update_is_asked_then_and_only_then() -> None:
    ladder = Ladder([Warn(), SkipUpdate(When("alarm", cooldown=1))])
    levels: dict[int, Level] = {1: "alarm", 2: "alarm"}
    assert climb(ladder, levels, before_update=True) == {1: ["SkipUpdate"], 2: ["SkipUpdate"]}


def test_trouble_that_comes_again_after_a_roll_back_is_new_trouble() -> None:
    ladder = Ladder([Count(When("alarm")), RollBack(When("alarm", cooldown=9))])
    assert climb(ladder, {1: "alarm"}) == {1: ["Count", "RollBack"]}
    ladder.forget_trouble()
    assert ladder.due(Diagnosis(2, level="alarm")) == [0]  # the cooldown of the other goes on


def test_a_changed_ladder_keeps_what_its_rungs_have_done() -> None:
    old = Ladder([Warn(), CutLearningRate(), Stop()])
    climb(old, {1: "alarm"})
    old.rungs[1].load_state_dict({"share": 0.25})
    cut = CutLearningRate()
    new = Ladder([RollBack(), cut, Warn(), Warn()])
    new.load_state_dict(old.state_dict())
    assert [record.count for record in new.records] == [0, 1, 1, 0]
    assert cut.state_dict() == {"share": 0.25}
