"""The watch beside other trainers: what it takes in, when it speaks, to whom."""

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from llds.errors import ConfigurationError
from llds.integrations.transformers import CollapseCallback
from tests.servers import answered_by, answering


def logged(step: int, fall: float = 0.0) -> dict[str, Any]:
    """What TRL logs at a step; the reward falls over eight of them from step 20 on."""
    reward = 0.6 + 0.02 * (step % 3) - fall * max(0.0, min(1.0, (step - 20) / 8))
    return {"loss": 0.01, "grad_norm": 1.0 + 0.01 * (step % 5), "reward": reward, "entropy": 0.4, "step": step}


class Training:
    """Hands a callback what a trainer of transformers would."""

    def __init__(self, callback: CollapseCallback, history: list[dict[str, Any]] | None = None) -> None:
        self.callback, self.control = callback, TrainerControl()
        self.arguments: Any = SimpleNamespace(max_grad_norm=1.0)
        self.state = TrainerState(log_history=history or [])
        callback.on_train_begin(self.arguments, self.state, self.control)

    def go(self, steps: range, fall: float = 0.0) -> None:
        """Log these steps."""
        for step in steps:
            self.state.global_step = step
            self.callback.on_log(self.arguments, self.state, self.control, logs=logged(step, fall))


def test_it_speaks_once_when_the_reward_collapses_and_stops_the_training_when_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    training = Training(CollapseCallback(stop_after=5))
    with caplog.at_level(logging.WARNING, "llds"):
        training.go(range(1, 24), fall=0.5)
        assert not training.control.should_training_stop
        training.go(range(24, 50), fall=0.5)
    assert training.control.should_training_stop
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "alarm since iteration 2" in line] == said[:1]
    assert all("stops the training" in line for line in said[1:])


def test_a_healthy_training_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    training = Training(CollapseCallback(stop_after=0))
    training.go(range(1, 60))
    training.callback.on_log(training.arguments, training.state, training.control, logs={"train_runtime": 3.0})
    assert not caplog.records
    assert not training.control.should_training_stop


def test_a_training_that_goes_on_is_judged_with_what_was_logged_before(caplog: pytest.LogCaptureFixture) -> None:
    whole, resumed = (
        Training(CollapseCallback(), history) for history in (None, [logged(one) for one in range(1, 20)])
    )
    whole.go(range(1, 20))
    assert resumed.callback.watch.detector.state_dict() == whole.callback.watch.detector.state_dict()
    resumed.go(range(20, 40), fall=0.5)
    assert len(caplog.records) == 1


def test_a_training_without_a_reward_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    training = Training(CollapseCallback())
    for step in range(1, 20):
        training.callback.on_log(training.arguments, training.state, training.control, logs={"loss": 2 / step})
    assert [record.getMessage() for record in caplog.records] == [
        "llds: no reward among the metrics so far: only values that are no numbers will be seen."
    ]


def test_news_are_posted_to_a_webhook(caplog: pytest.LogCaptureFixture) -> None:
    received: list[dict[str, Any]] = []
    arrived = threading.Event()

    def answer(news: dict[str, Any]) -> dict[str, Any]:
        received.append(news)
        arrived.set()
        return {}

    with answered_by(answering(answer)) as url:
        Training(CollapseCallback(webhook=f"{url}/retrieve")).go(range(1, 40), fall=0.5)
        assert arrived.wait(10)
    assert [one["diagnosis"]["level"] for one in received] == ["alarm"]
    assert received[0]["text"] == caplog.records[0].getMessage().removeprefix("llds: ")


@pytest.mark.parametrize("bad", [{"warmup": 1}, {"stop_after": -1}, {"strictness": 0}, {"webhook": "example.org"}])
def test_what_cannot_be_used_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Expected"):
        CollapseCallback(**bad)
