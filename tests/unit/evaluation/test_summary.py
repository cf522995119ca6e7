"""Numbers of an evaluation: sources, averages as the papers group them, all questions."""

import pytest

from llds.evaluation import benchmark_of, combined_mean, summarize
from llds.evaluation.calibration import calibrate, reliability_picture
from llds.evaluation.markdown import markdown_table
from tests.questions import question


def test_every_number_of_a_source_by_hand() -> None:
    summary = summarize(
        [
            question("1", 1.0, searches=1, actions=2, valid_actions=2, found_gold=True, action_tokens=10),
            question("2", 0.0, f1=0.5, searches=3, actions=4, valid_actions=3, found_gold=False, action_tokens=20),
            question("3", 0.0, searches=0, actions=0, valid_actions=0, found_gold=None, status="failed", answer=None,
                     action_tokens=0, truncated=True),
            question("1", 1.0, "hotpot_own", searches=2, actions=2, valid_actions=1, found_gold=True, total_tokens=90),
        ]
    )  # fmt: skip
    nq, other = summary.sources
    assert (nq.name, nq.n, nq.exact_match.value, nq.f1.value) == ("nq", 3, 1 / 3, 0.5)
    assert (nq.searches, nq.valid_action_rate, nq.hit_rate) == (4 / 3, 5 / 6, 1 / 2)
    assert (nq.failed, nq.truncated, nq.answered, nq.action_tokens) == (1, 1 / 3, 2 / 3, 10.0)
    assert (other.n, other.hit_rate, other.total_tokens) == (1, 1.0, 90.0)
    everything = summary.all_questions
    assert (everything.n, everything.exact_match.value, everything.searches) == (4, 0.5, 1.5)
    assert everything.hit_rate == 2 / 3
    assert nq.exact_match.low < nq.exact_match.value < nq.exact_match.high


def test_metrics_are_numbers_and_leave_out_what_is_undefined() -> None:
    metrics = summarize([question(found_gold=None)]).all_questions.metrics()
    assert "hit_rate" not in metrics
    assert "name" not in metrics
    assert metrics["exact_match"] == 0.0 < metrics["exact_match_high"]
    assert all(isinstance(value, float) for value in metrics.values())


def test_averages_are_grouped_as_in_the_papers_and_count_each_source_the_same() -> None:
    scores = {"nq": [1, 1, 1, 1], "tq": [0], "HotpotQA": [1, 0], "2wiki": [0, 0, 0, 1], "mine": [1]}
    summary = summarize(
        [question(str(number), score, name) for name, row in scores.items() for number, score in enumerate(row)]
    )
    averages = {average.name: average for average in summary.averages}
    assert list(averages) == ["general", "multi-hop", "all"]
    assert averages["general"].exact_match.value == (1 + 0) / 2
    assert averages["multi-hop"].exact_match.value == (1 / 2 + 1 / 4) / 2
    assert averages["all"].exact_match.value == (1 + 0 + 1 / 2 + 1 / 4 + 1) / 5
    assert averages["general"].sources == ("nq", "tq")
    assert averages["general"].missing == ("PopQA",)
    assert averages["multi-hop"].missing == ("MuSiQue", "Bamboogle")
    assert averages["general"].f1 == combined_mean([source.f1 for source in summary.sources[:2]])


def test_one_source_has_no_averages_and_sources_of_ones_own_have_one() -> None:
    assert summarize([question()]).averages == ()
    [average] = summarize([question(source="a"), question(source="b")]).averages
    assert (average.name, average.sources) == ("all", ("a", "b"))


@pytest.mark.parametrize(
    ("name", "benchmark"),
    [
        ("nq", "nq"), ("NQ", "nq"), ("tq", "triviaqa"), ("TriviaQA", "triviaqa"), ("popqa", "popqa"),
        ("hotpotqa", "hotpotqa"), ("2wiki", "2wikimultihopqa"), ("2WikiMultihopQA", "2wikimultihopqa"),
        ("2wiki_multihop_qa", "2wikimultihopqa"), ("musique", "musique"), ("Bamboogle", "bamboogle"),
        ("hotpotqa_train", None), ("nq_hotpotqa", None), ("quickstart", None), ("", None),
    ],
)  # fmt: skip
def test_data_sources_are_known_by_their_aliases(name: str, benchmark: str | None) -> None:
    assert benchmark_of(name) == benchmark


def test_the_row_for_a_paper_follows_the_order_of_the_papers() -> None:
    names = ("bamboogle", "mine|yours", "nq")
    lines = markdown_table("run", summarize([question("1", 1.0, name) for name in names])).splitlines()
    assert lines[0] == "|  | NQ | Bamboogle | mine\\|yours | general (1 of 3) | multi-hop (1 of 4) | all (3) |"
    assert lines[2] == "| run: EM | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 |"
    assert lines[3].startswith("| 95% interval | 0.207-1.000 |")
    assert lines[-1] == "| n | 1 | 1 | 1 |  |  |  |"


def test_calibration_is_the_gap_between_likelihood_and_share_of_right_answers() -> None:
    found = calibrate([0.9, 0.8, 0.85, 0.1, 1.0], [1, 0, 1, 0, 1])
    # bin 0.8-0.9: likelihood 0.825, 1 of 2 right; bin 0.1-0.2: 0.1, none; bin 0.9-1: 0.95, both right
    assert [one.n for one in found.bins] == [0, 1, 0, 0, 0, 0, 0, 0, 2, 2]
    assert found.expected_error == pytest.approx((2 * 0.325 + 0.1 + 2 * 0.05) / 5)
    assert found.brier == pytest.approx((0.01 + 0.64 + 0.0225 + 0.01 + 0) / 5)
    assert calibrate([0.0, 1.0], [0, 1]).expected_error == 0
    assert reliability_picture(found).count("<circle") == 3
