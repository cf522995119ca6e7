"""Signals of what the agent did, against arithmetic by hand; undefined ones are left out."""

import pytest

from llds.metrics import first_action_match, rollout_metrics
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn

PROMPT = Prompt("p", "q", ("Oslo",), prompt_ids=(1, 2, 3))
SEARCH, INVALID, ANSWER = Action("tool", "search", "x"), Action("invalid"), Action("answer", "", "Oslo")


def turn(action: Action, tokens: int, observation: int = 0, documents: str = "", **others: object) -> Turn:
    plain = Turn(list(range(tokens)), [-1.0] * tokens, "stop", action, [6] * observation, document_ids=tuple(documents))
    for name, value in others.items():
        setattr(plain, name, value)
    return plain


def trajectory(group: str, reward: float, *turns: Turn, status: str = "answered") -> Trajectory:
    return Trajectory(
        PROMPT, group, 0, SamplingParams(), turns=list(turns), status=status, reward=reward, is_correct=reward > 0
    )  # type: ignore[arg-type]


def test_what_the_agent_did_by_hand() -> None:
    metrics = rollout_metrics(
        [
            trajectory("a", 1.0, turn(SEARCH, 4, 10, "xy"), turn(ANSWER, 2)),
            trajectory(
                "a", 0.0, turn(SEARCH, 3, 8, "yx", observation_is_cut=True), turn(SEARCH, 5), status="out_of_turns"
            ),
            trajectory("b", 1.0, turn(INVALID, 6, 7, stop_reason="length"), turn(ANSWER, 1)),
            trajectory("b", 1.0, turn(ANSWER, 3)),
            trajectory("c", 0.0, turn(SEARCH, 9), status="failed"),
        ],
        iteration=1,
    )
    assert metrics == pytest.approx(
        {
            "reward/mean": 3 / 4,
            "reward/informative_groups": 1 / 2,  # a
            "reward/all_correct_groups": 1 / 2,  # b
            "rollout/failed": 1 / 5,
            "rollout/answered": 3 / 4,
            "rollout/tool_calls": 2 / 4,  # the search of the last turn was not served
            "rollout/turns": (2 + 2 + 2 + 1) / 4,
            "rollout/action_tokens": (6 + 8 + 7 + 3) / 4,
            "rollout/total_tokens": 3 + (6 + 10 + 8 + 8 + 7 + 7 + 3) / 4,
            "rollout/valid_action_rate": 6 / 7,
            "rollout/action_cut": 1 / 7,
            "rollout/observation_cut": 1 / 3,
            "rollout/first_action_match": 1.0,  # the same documents in another order
            "rollout/distinct_queries": 1 / 3,  # x, x, x in a; none in b
            "rollout/repeated_ngrams": 0.0,
            "rollout/tool_failures": 0.0,
            "rollout/tool_errors": 0.0,
            "rollout/weight_lag": 1.0,
        }
    )


def test_signals_without_anything_to_count_are_left_out() -> None:
    assert rollout_metrics([], 0) == {}
    failed = trajectory("a", 0.0, status="failed")
    assert rollout_metrics([failed], 0) == {"rollout/failed": 1.0, "rollout/weight_lag": 0.0}
    unsearched = rollout_metrics([trajectory("a", 0.0, turn(ANSWER, 1))], 0)
    left_out = {
        "first_action_match",
        "observation_cut",
        "distinct_queries",
        "repeated_ngrams",
        "tool_failures",
        "tool_errors",
    }
    assert not {f"rollout/{name}" for name in left_out} & set(unsearched)


def test_a_call_that_failed_counts_once_and_one_that_lost_its_sampler_does_not() -> None:
    lost, down = (trajectory("a", 0.0, turn(SEARCH, 4), status="failed") for _ in range(2))
    down.failed_by, lost.failed_by = "tool", "sampler"
    served = trajectory("a", 1.0, turn(SEARCH, 4, 10), turn(SEARCH, 4, 10), turn(SEARCH, 4, 10))
    assert rollout_metrics([lost, down, served], 0)["rollout/tool_failures"] == 1 / 4


def test_queries_are_the_same_whatever_their_case_and_spaces() -> None:
    queries = [Action("tool", "search", words) for words in ("Capital of Ghana", " capital  of ghana ", "Accra")]
    group = [trajectory("a", 1.0, turn(query, 4, 1)) for query in queries]
    assert rollout_metrics(group, 0)["rollout/distinct_queries"] == 2 / 3


def test_repeated_ngrams_by_hand() -> None:
    once = turn(SEARCH, 0, 1)
    once.action_ids = [1, 2, 3, 4, 5]  # 1234 2345
    again = turn(SEARCH, 0, 1)
    again.action_ids = [5, 1, 2, 3, 4, 5]  # 5123 1234 2345; none spans both actions
    assert rollout_metrics([trajectory("a", 1.0, once, again)], 0)["rollout/repeated_ngrams"] == pytest.approx(2 / 5)
    permuted = turn(SEARCH, 0, 1)
    permuted.action_ids = [1, 2, 3, 4, 4, 3, 2, 1]
    assert rollout_metrics([trajectory("a", 1.0, permuted)], 0)["rollout/repeated_ngrams"] == 0.0


def test_first_action_match_by_hand() -> None:
    right = trajectory("a", 1.0, turn(SEARCH, 1, 1, "xy"), turn(SEARCH, 1, 1, "uv"))
    same, other = trajectory("a", 0.0, turn(SEARCH, 1, 1, "xy")), trajectory("a", 0.0, turn(SEARCH, 1, 1, "uv"))
    silent = trajectory("a", 0.0, turn(ANSWER, 1))
    assert first_action_match([[right, same, other, silent]]) == pytest.approx(1 / 3)
    assert first_action_match([[right, right]]) is None  # nobody was wrong
    assert first_action_match([[same, other]]) is None  # nobody was right
    assert first_action_match([[trajectory("b", 1.0, turn(ANSWER, 1)), same]]) is None  # the right one did not search
