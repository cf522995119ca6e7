"""Rewards: what an answer is worth, and that nothing but the policy's own answer earns."""

import random
import re
import time

import pytest
from torchmetrics.functional.text import squad

from llds.rewards import (
    ExactMatchReward,
    F1Reward,
    Reward,
    comparable_answer,
    contains_answer,
    exact_match,
    extract_answer,
    normalize_answer,
    substring_match,
    token_f1,
)
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn


def trajectory(action: Action, observation_ids: list[int] | None = None) -> Trajectory:
    prompt = Prompt("1", "Capital of Norway?", ("Oslo", "city of Oslo"), prompt_ids=(1, 2))
    turn = Turn([3], [-0.1], "stop", action, observation_ids or [])
    return Trajectory(prompt, "0/0", 0, SamplingParams(), turns=[turn])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>Oslo</answer>", "Oslo"),
        ("<answer> Oslo\n</answer> bye", "Oslo"),
        ("<answer>a</answer><answer>b</answer>", "b"),
        ("<answer>a</answer><answer>b", "a"),
        ("<answer>a</answer> junk </answer>", "a"),
        ("<answer>x <answer>y</answer>", "x <answer>y"),
        ("<answer></answer>", ""),
        ("<answer>a<b>c</answer>", "a<b>c"),
        ("</answer><answer>", None),
        ("<answer>Oslo", None),
        ("Oslo</answer>", None),
        ("<ANSWER>Oslo</ANSWER>", None),
        ("", None),
    ],
)
def test_the_last_complete_span_is_the_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_extraction_agrees_with_a_slow_reader_on_random_text() -> None:
    span = re.compile(r"<answer>([\s\S]*?)</answer>")  # the pattern of Search-R1's scorer
    rng = random.Random(0)
    for _ in range(5000):
        text = "".join(rng.choices(["<answer>", "</answer>", "a", " ", "北", "<", "answer>"], k=rng.randint(0, 12)))
        spans = span.findall(text)
        assert extract_answer(text) == (spans[-1].strip() if spans else None), text


@pytest.mark.parametrize("unit", ["<answer>", "</answer>", "<answer></answer>", "<answer", "</answer><answer>"])
def test_extraction_from_megabytes_of_tags_takes_linear_time(unit: str) -> None:
    text = unit * 300_000
    start = time.perf_counter()
    extract_answer(text)
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("  The  Beatles! ", "beatles"),
        ("An apple, a pear & the plum.", "apple pear plum"),
        ("U.S.A.", "usa"),
        ("Anthem", "anthem"),
        ("theater", "theater"),
        ("The A", ""),
        ("ÉMILE Zola", "émile zola"),
        ("北京", "北京"),
        ("20 July, 1851", "20 july 1851"),
    ],
)
def test_normalization_follows_squad(text: str, normalized: str) -> None:
    assert normalize_answer(text) == normalized


def test_exact_match_takes_any_gold_answer_after_normalization() -> None:
    assert exact_match("the  OSLO.", ["Bergen", "Oslo"]) == 1.0
    assert exact_match("Oslo city", ["Bergen", "Oslo"]) == 0.0
    assert exact_match("Oslo", "Oslo") == 1.0  # a bare string is one gold answer, not its characters
    assert exact_match("o", "Oslo") == 0.0


def test_token_f1_counts_words_with_multiplicity() -> None:
    # 3 words, 2 of them common with the 2 gold words: precision 2/3, recall 1, F1 = 2 * 2 / (3 + 2)
    assert token_f1("city of Oslo", ["Oslo city"]) == pytest.approx(0.8)
    # "x x" against "x": one common word of two, 2 * 1 / (2 + 1)
    assert token_f1("x x", ["x"]) == pytest.approx(2 / 3)
    assert token_f1("Bergen", ["Oslo"]) == 0.0
    assert token_f1("the Oslo", ["Bergen", "oslo!"]) == 1.0


def test_substring_match_finds_a_gold_answer_inside_the_answer() -> None:
    assert substring_match("It is the city of Oslo, I think", ["Oslo"]) == 1.0
    assert substring_match("Os", ["Oslo"]) == 0.0


@pytest.mark.parametrize("measure", [exact_match, token_f1, substring_match])
def test_nothing_is_earned_by_no_answer_or_against_an_empty_gold_answer(measure) -> None:
    assert measure(None, ["Oslo"]) == 0.0
    assert measure("", ["Oslo"]) == 0.0
    assert measure("the", ["a", "...", ""]) == 0.0
    assert measure("Oslo", []) == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "substring", "f1"),
    [
        ("yes", "Yes.", 1, 1, 1.0),
        ("yes or no", "yes", 0, 1, 0.0),  # HotpotQA: a verdict is right or wrong
        ("yes", "yes or no", 0, 0, 0.0),
        ("no", "Norway", 0, 0, 0.0),
        ("Norway", "no", 0, 1, 0.0),  # substrings are of characters, as Search-R1 and FlashRAG count
        ("1,000 people", "1000", 0, 1, 2 / 3),
        ("3.5", "35", 1, 1, 1.0),  # points are punctuation, in SQuAD too
        ("U.S.", "US", 1, 1, 1.0),
        ("the 1990s", "1990", 0, 1, 0.0),
        ("Zürich", "ZÜRICH", 1, 1, 1.0),
        ("Zu\u0308rich", "Z\u00fcrich", 0, 0, 0.0),  # nobody composes characters before comparing
        ("O\u2019Neill", "O'Neill", 0, 0, 0.0),  # only ASCII punctuation is removed
        ("Stra\u00dfe", "strasse", 0, 0, 0.0),  # lower case, not case folding
        ("the", "The", 1, 1, 1.0),  # nothing is left of either: compared as they are
        ("the  THE", "The The", 1, 1, 1.0),  # a band; of NQ-open's and HotpotQA's files
        ("The The", "---", 0, 0, 0.0),
        ("---", "---", 1, 1, 1.0),
        ("", "---", 0, 0, 0.0),
        ("the", "The The", 0, 0, 2 / 3),
        ("The band The The", "The The", 0, 1, 2 * 2 / (4 + 2)),
        ("The Them", "The The", 0, 0, 2 * 1 / (2 + 2)),  # whole words
        ("the Oslo", "the", 0, 1, 2 * 1 / (2 + 1)),
        ("Vitamin A", "vitamin", 1, 1, 1.0),
        ("a b c d", "b d x", 0, 0, 2 * 2 / (3 + 3)),  # "a" is an article
    ],
)
def test_edge_cases_by_hand(answer: str, gold: str, exact: int, substring: int, f1: float) -> None:
    assert exact_match(answer, [gold]) == exact
    assert substring_match(answer, [gold]) == substring
    assert token_f1(answer, [gold]) == pytest.approx(f1)


def test_what_normalization_leaves_empty_never_equals_what_it_does_not() -> None:
    rng = random.Random(0)
    parts = ["The", "a", "an", "-", "...", "'", " ", "n", "th", "e", "Oslo"]
    texts = ["".join(rng.choices(parts, k=rng.randint(1, 5))) for _ in range(3000)]
    empty = {comparable_answer(text) for text in texts if not normalize_answer(text)} - {""}
    assert len(empty) > 50
    assert not empty & {normalize_answer(text) for text in texts}


def test_an_answer_is_found_in_a_text_as_whole_words() -> None:
    assert contains_answer("It was the city of Oslo.", "OSLO")
    assert not contains_answer("Osloer", "Oslo")
    assert contains_answer("Matt Johnson founded The The in 1979", "The The")
    assert not contains_answer("The band", "The The")
    assert not contains_answer("", "")


def test_scores_are_those_of_an_independent_squad_scorer() -> None:
    rng = random.Random(0)
    words = ["The", "Oslo", "oslo,", "a", "city", "of", "1,905", "Zürich", "(north)", "an", "new", "-", "York's"]
    for _ in range(300):
        answer = " ".join(rng.choices(words, k=rng.randint(1, 6)))
        golds = [" ".join(rng.choices(words, k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
        if not all(normalize_answer(text) for text in (answer, *golds)):
            continue  # of empty answers we think otherwise
        target = {"answers": {"answer_start": [0] * len(golds), "text": golds}, "id": "1"}
        expected = squad({"prediction_text": answer, "id": "1"}, target)
        assert exact_match(answer, golds) == expected["exact_match"] / 100, (answer, golds)
        assert token_f1(answer, golds) == pytest.approx(float(expected["f1"]) / 100, abs=1e-6), (answer, golds)


@pytest.mark.parametrize("reward", [ExactMatchReward(), F1Reward()])
def test_only_the_answer_of_the_last_action_earns(reward: Reward) -> None:
    assert reward(trajectory(Action("answer", "", "oslo"))) == 1.0
    assert reward(trajectory(Action("answer", "", "Bergen"))) == 0.0
    assert reward(trajectory(Action("tool", "search", "Oslo"))) == 0.0
    assert reward(trajectory(Action("invalid"))) == 0.0
    searched = trajectory(Action("answer", "", "Oslo"))
    searched.turns.append(Turn([4], [-0.1], "stop", Action("tool", "search", "Oslo")))
    assert reward(searched) == 0.0


def test_f1_rewards_an_answer_that_is_partly_right_and_exact_match_does_not() -> None:
    partly = trajectory(Action("answer", "", "Oslo city"))
    assert ExactMatchReward()(partly) == 0.0
    assert F1Reward()(partly) == pytest.approx(0.8)  # 2 * 2 / (2 + 3) against "city of Oslo"
