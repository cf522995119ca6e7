"""Rewards of other people's classes: a number, or one sentence that names the class and the trajectory."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp import web
from lightning.pytorch.utilities.exceptions import SIGTERMException

from llds.errors import ConfigurationError, RewardFailure
from llds.metrics import rollout_metrics
from llds.rewards import (
    CallCost,
    F1Reward,
    FormReward,
    FunctionReward,
    GoldPassageReward,
    JudgeReward,
    OverlongPenalty,
    Reward,
    SearchR1FormReward,
    SumOfRewards,
)
from llds.rollout.scoring import Correctness, RewardCalls, Scoring
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn


class Theirs(Reward):
    """Gives what a function gives."""

    def __init__(self, function: Callable[[Trajectory], Any]) -> None:
        self.function = function

    def __call__(self, trajectory: Trajectory) -> float:
        """What the function gives."""
        return self.function(trajectory)  # type: ignore[no-any-return]


def scored(function: Callable[[Trajectory], Any], **changes: Any) -> float:
    prompt = Prompt("q7", "Who?", ("a",), origin="train.jsonl:7")
    trajectory = Trajectory(prompt, "g", 3, SamplingParams(), **changes)
    Scoring(Theirs(function)).score([trajectory], asyncio.run)
    return trajectory.reward


def judged(reward: Reward, answer: str, correct: Correctness | None = None) -> tuple[float, bool]:
    turns = [Turn([3], [-0.1], "stop", Action("answer", "", answer))]
    trajectory = Trajectory(Prompt("q7", "Where?", ("city of Oslo",)), "g", 3, SamplingParams(), turns=turns)
    Scoring(reward, correct).score([trajectory], asyncio.run)
    return round(trajectory.reward, 2), trajectory.is_correct


def test_a_word_overlap_is_a_reward_but_no_right_answer() -> None:
    assert judged(F1Reward(), "the city of Bergen") == (0.67, False)
    assert judged(F1Reward(), "The city of Oslo!") == (1.0, True)
    assert judged(F1Reward(), "the city of Bergen", Correctness(at_least=0.6)) == (0.67, True)


def test_a_bonus_makes_no_wrong_answer_right() -> None:
    form = Theirs(lambda one: 1.2 if one.answer == "city of Oslo" else 0.2)
    assert [judged(form, answer)[1] for answer in ("city of Oslo", "Bergen")] == [True, False]


def test_a_class_that_judges_better_than_exact_match_says_from_where_on() -> None:
    verifier = Theirs(lambda one: 0.8 * float("Oslo" in (one.answer or "")))
    assert judged(verifier, "Oslo, the city") == (0.8, False)
    verifier.correct_from = 0.8
    assert judged(verifier, "Oslo, the city") == (0.8, True)


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"rollout\.correct\.at_least"):
        Correctness(at_least=float("nan"))


def leave(_: Trajectory) -> Any:
    raise SystemExit(2)


SCALARS = [np.float32(0.25), np.int64(1), np.bool_(True), np.array(0.5), torch.tensor(0.5)]


@pytest.mark.parametrize("value", [1, 0.25, True, *SCALARS])
def test_any_finite_number_is_a_reward(value: Any) -> None:
    assert scored(lambda _: value) == float(value)
    assert type(scored(lambda _: value)) is float


@pytest.mark.parametrize(
    "value", [None, "1.0", [1.0], {}, torch.ones(1), float("nan"), float("inf"), 1j, pytest.param(10**400, id="huge")]
)
def test_anything_else_is_refused_by_class_trajectory_and_question(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Theirs \(`rollout\.reward`\) for trajectory 3, question 'q7'.*got"):
        scored(lambda _: value)


@pytest.mark.parametrize(("function", "said"), [(lambda _: 1 / 0, "ZeroDivisionError"), (leave, "SystemExit: 2")])
def test_a_class_that_raises_or_exits_is_named(function: Callable[[Trajectory], Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"Theirs.*train\.jsonl:7.*{said}"):
        scored(function)


def test_a_trajectory_that_failed_is_not_shown_to_the_class() -> None:
    assert scored(leave, status="failed") == 0.0


def test_a_question_that_was_asked_on_the_command_line_is_not_shown_to_the_class() -> None:
    prompt = Prompt("asked", "Where?", ())  # without gold answers and row, which the class may count on
    asked = Trajectory(prompt, "g", 0, SamplingParams(), turns=answered().turns, status="answered")
    Scoring(Theirs(lambda trajectory: trajectory.prompt.row["level"])).score([asked], asyncio.run)
    assert (asked.status, asked.reward, asked.is_correct) == ("answered", 0.0, False)


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SIGTERMException])
def test_a_signal_is_no_doing_of_the_class(signal: type[BaseException]) -> None:
    def interrupt(_: Trajectory) -> Any:
        raise signal

    with pytest.raises(signal):
        scored(interrupt)


class Asked(Reward):
    """Asks something that fails the first times."""

    def __init__(self, *errors: Exception | float) -> None:
        self.script = list(errors)
        self.calls = 0

    async def __call__(self, trajectory: Trajectory) -> float:
        """Score."""
        self.calls += 1
        said = self.script.pop(0) if self.script else 1.0
        if isinstance(said, Exception):
            raise said
        await asyncio.sleep(said if said > 1 else 0)
        return said


QUICK = RewardCalls(deadline_s=0.05, max_retries=1, backoff_s=0)


def answered(answer: str = "Oslo", index: int = 0, **row: Any) -> Trajectory:
    turns = [Turn([3], [-0.1], "stop", Action("answer", "", answer))]
    prompt = Prompt("q7", "Where?", ("Oslo",), prompt_ids=(7,), row=row)
    return Trajectory(prompt, "g", index, SamplingParams(), turns=turns, status="answered")


@pytest.mark.parametrize(
    ("script", "calls", "said"),
    [
        ([ConnectionError("down")], 2, ""),
        ([ConnectionError("down"), RewardFailure("still down")], 2, "Asked failed 2 times, last: still down"),
        ([9.0, 9.0], 2, "no reward within 0.05 s"),
    ],
)
def test_a_reward_that_fails_is_tried_again_and_then_a_failed_trajectory(
    script: list[Any], calls: int, said: str
) -> None:
    asked, trajectory = Asked(*script), answered()
    Scoring(asked, calls=QUICK).score([trajectory], asyncio.run)
    assert asked.calls == calls
    assert (trajectory.status, trajectory.failed_by) == (("failed", "reward") if said else ("answered", ""))
    assert said in trajectory.failure
    assert trajectory.reward == (0.0 if said else 1.0)


def test_a_bug_in_an_async_reward_ends_the_run() -> None:
    with pytest.raises(ConfigurationError, match=r"Asked.*KeyError"):
        Scoring(Asked(KeyError("k")), calls=QUICK).score([answered()], asyncio.run)


def test_parts_are_weighed_logged_and_one_of_them_says_what_is_correct() -> None:
    parts = {"f1": F1Reward(), "form": FormReward(), "gold": GoldPassageReward()}
    reward = SumOfRewards(parts, {"form": 0.5})
    one, other = answered("Oslo"), answered("Bergen", gold_passages=["d1"])
    Scoring(reward).score([one, other], asyncio.run)
    assert (one.reward, one.rewards, one.is_correct) == (1.5, {"f1": 1.0, "form": 1.0}, True)
    assert (other.reward, other.rewards, other.is_correct) == (0.5, {"f1": 0.0, "form": 1.0, "gold": 0.0}, False)
    metrics = rollout_metrics([one, other], 0)
    assert (metrics["reward/f1/mean"], metrics["reward/gold/mean"], metrics["reward/mean"]) == (0.5, 0.0, 1.0)
    Scoring(reward, Correctness(part="form")).score([other], asyncio.run)
    assert other.is_correct
    with pytest.raises(ConfigurationError, match="f1, form, gold"):
        Scoring(reward, Correctness(part="from"))
    with pytest.raises(ConfigurationError, match="that applies"):
        Scoring(SumOfRewards({"gold": GoldPassageReward()})).score([one], asyncio.run)
    with pytest.raises(ConfigurationError, match="'forms'"):
        SumOfRewards(parts, {"forms": 0.5})


def test_one_is_told_once_where_nothing_that_is_rewarded_is_correct() -> None:
    scoring = Scoring(Theirs(lambda _: 1.0))
    wrong = [answered("Bergen", index) for index in range(200)]
    with pytest.warns(UserWarning, match=r"Theirs.*none of which is correct.*`correct_from`"):
        scoring.score([*wrong, *wrong], asyncio.run)


def accuracy(prompts: list[str], completions: list[str], level: list[int], **kwargs: Any) -> list[float | None]:
    """As TRL's users write them."""
    assert kwargs["golden_answers"][0] == ["Oslo"]
    return [None if much < 0 else float("3" in text) + much for text, much in zip(completions, level, strict=True)]


async def by_message(completions: list[list[dict[str, str]]]) -> list[float]:
    """One for chats, async."""
    return [float(len(one)) for one in completions]


class OfAClass:
    """As TRL makes those that have settings."""

    def __call__(self, completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        """Too few."""
        return [float(len(ids)) for ids in completion_ids[1:]]


def test_a_function_of_trls_kind_runs_unchanged() -> None:
    reward = FunctionReward(f"{__name__}.accuracy", correct_from=3)
    reward.attach(lambda ids: " ".join(map(str, ids)))
    trajectories = [answered(level=2), answered(index=1, level=1)]
    Scoring(reward).score(trajectories, asyncio.run)
    assert [(one.reward, one.is_correct) for one in trajectories] == [(3.0, True), (2.0, False)]
    chat = FunctionReward(by_message, conversational=True)
    chat.attach(str)
    Scoring(chat).score(trajectories, asyncio.run)
    assert [one.reward for one in trajectories] == [1.0, 1.0]
    with pytest.raises(ConfigurationError, match=r"list of 2 rewards from .*<lambda>"):
        Scoring(FunctionReward(lambda final_answers: [1.0])).score(trajectories, asyncio.run)
    with pytest.raises(ConfigurationError, match="import path"):
        FunctionReward("nowhere")
    chat.function = OfAClass()
    with pytest.raises(ConfigurationError, match=r"list of 2 rewards from OfAClass"):
        Scoring(chat).score(trajectories, asyncio.run)
    with pytest.raises(ConfigurationError, match=r"a column 'solution', which .*<lambda>.*, got level"):
        Scoring(FunctionReward(lambda completions, solution, **_: [])).score(trajectories, asyncio.run)
    with pytest.raises(ConfigurationError, match=r"number from FunctionReward of .*<lambda> .* for trajectory 0.*nan"):
        Scoring(FunctionReward(lambda final_answers: [float("nan")] * 2)).score(trajectories, asyncio.run)
    rows = [answered("Oslo", answers=["gold"])]  # a column of the data, and not what the policy answered
    both = FunctionReward(lambda answers, final_answers: [(answers, final_answers) == ([["gold"]], ["Oslo"])])
    Scoring(both).score(rows, asyncio.run)
    assert [one.reward for one in rows] == [1.0]
    with pytest.raises(ConfigurationError, match="None"):  # does not apply, and there is no other part
        Scoring(reward).score([answered(level=-1)], asyncio.run)


def test_form_cost_and_length() -> None:
    bad = answered("Oslo")
    bad.turns.insert(0, Turn([1, 2], [0.0, 0.0], "stop", Action("invalid")))
    bad.turns.insert(0, Turn([1, 2], [0.0, 0.0], "stop", Action("tool", "search", "x"), [4], document_ids=("d1",)))
    good, wrong = answered("Oslo"), answered("Bergen", gold=["d9"])
    table = SearchR1FormReward(gold_column="gold")
    assert [table(one) for one in (good, bad, wrong)] == [1.0, 0.8, 0.2]
    wrong.turns.insert(0, Turn([1], [0.0], "stop", Action("tool", "search", "x"), [4], document_ids=("d9",)))
    assert table(wrong) == pytest.approx(0.3)
    wrong.turns[0].action = Action("invalid")
    assert table(wrong) == 0.1
    assert [FormReward()(one) for one in (good, bad)] == [1.0, 0.0]
    assert [CallCost(0.1, free)(bad) for free in (0, 1)] == [-0.1, 0.0]
    assert [CallCost(0.1, free).score_turns(bad) for free in (0, 1)] == [[-0.1, 0.0, 0.0], [0.0] * 3]
    assert [OverlongPenalty(limit, 2)(bad) for limit in (9, 6, 5, 2)] == [0.0, -0.5, -1.0, -1.0]
    for wrongly in (lambda: OverlongPenalty(1, 2), lambda: CallCost(-1)):
        with pytest.raises(ConfigurationError):
            wrongly()


def test_of_each_action_a_reward_says_a_number_or_nothing() -> None:
    one = answered("Oslo")
    one.turns.insert(0, Turn([1], [0.0], "stop", Action("invalid")))
    form, parts = FormReward(), {"form": FormReward(), "f1": F1Reward()}
    Scoring(SumOfRewards(parts)).score([one], asyncio.run)
    assert [turn.rewards for turn in one.turns] == [{"form": 0.0}, {"form": 1.0}]
    Scoring(form).score([one], asyncio.run)
    assert [turn.rewards for turn in one.turns] == [{"reward": 0.0}, {"reward": 1.0}]
    for wrongly, said in (([1.0], "2 numbers"), ([1.0, float("inf")], "finite"), (1.0, "not iterable")):
        form.score_turns = lambda _, found=wrongly: found  # type: ignore[method-assign, misc]
        with pytest.raises(ConfigurationError, match=f"{said}.*FormReward|FormReward.*{said}"):
            Scoring(form).score([one], asyncio.run)


class Judge:
    """A server of OpenAI's shape."""

    def __init__(self, *replies: str | int) -> None:
        self.replies = list(replies)
        self.asked: list[str] = []

    async def __aenter__(self) -> str:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}/v1"

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append((await request.json())["messages"][0]["content"])
        said = self.replies.pop(0)
        if isinstance(said, int):
            return web.Response(status=said)
        return web.json_response({"choices": [{"message": {"content": said}}]})


def test_a_judge_is_asked_once_for_an_answer_and_its_failures_are_no_verdicts(tmp_path: Path) -> None:
    judge = Judge("Yes.", 503, "no", "maybe", "maybe", 404, 400)
    wrong = [answered("Oslo, Norway {golds}", 0), answered("Oslo, Norway {golds}", 1), answered("Oslo", 2)]
    doubtful = [answered("Christiania", 3), answered("The capital", 4)]

    async def score() -> None:
        async with judge as url:
            reward = JudgeReward(url, "m", cache=str(tmp_path / "verdicts.jsonl"))
            scoring = Scoring(reward, calls=RewardCalls(backoff_s=0, max_retries=1, at_once=1))
            scoring_run = asyncio.to_thread(scoring.score, wrong, lambda coroutine: asyncio.run(coroutine))
            await scoring_run
            await asyncio.to_thread(scoring.score, doubtful, lambda coroutine: asyncio.run(coroutine))
            with (tmp_path / "verdicts.jsonl").open("a") as file:
                file.write('{"key": "of a run that was kil')
            again = JudgeReward(url, "m", cache=str(tmp_path / "verdicts.jsonl"))
            assert await again(wrong[0]) == 1.0  # of the file
            with pytest.raises(ConfigurationError, match="status 404"):
                await again(answered("Tromsø"))
            with pytest.raises(RewardFailure, match="status 400"):
                await again(answered("An answer that is too long for the judge"))

    asyncio.run(score())
    assert [(one.reward, one.is_correct) for one in wrong] == [(1.0, True)] * 3
    assert [(one.status, one.reward) for one in doubtful] == [("answered", 0.0), ("failed", 0.0)]
    assert "neither yes nor no" in doubtful[1].failure
    (tmp_path / "other.json").write_text('{"not": "ours"}')
    with pytest.raises(ConfigurationError, match=r"verdicts in `cache` of the judge.*at the end in"):
        JudgeReward("http://127.0.0.1:9", "m", cache=str(tmp_path / "other.json"))
    assert (tmp_path / "other.json").read_text() == '{"not": "ours"}'
    assert len(judge.asked) == 7
    assert "Given answer: Oslo, Norway {golds}" in judge.asked[0]
