"""Questions that a corpus can answer: whole words, after normalization, against a search by hand."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from llds.data import DataSource, read_source
from llds.data.corpus_filter import answers_in_corpus, with_answer_in
from llds.errors import DataError
from llds.files import file_hash
from llds.rewards import normalize_answer

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
Write = Callable[..., str]


@pytest.fixture
def corpus(write_jsonl: Write) -> str:
    texts = [
        '"Oslo"\nThe capital, of Norway: founded about 1040!',
        '"House of Cards"\nA no-nonsense series.',
        '"北京"\n北京是中华人民共和国的首都。',
    ]
    return write_jsonl(*[{"id": n, "contents": text} for n, text in enumerate(texts)], name="corpus.jsonl.gz")


@pytest.mark.parametrize(
    ("answer", "occurs"),
    [
        ("Oslo", True),  # a title
        ("the CAPITAL of Norway", True),  # case, articles and punctuation do not count
        ("Norway founded", True),
        ("1040", True),
        ("104", False),
        ("us", False),  # inside of "house"
        ("house", True),
        ("nononsense", True),  # as the reward reads it
        ("no", False),
        ("cards nononsense series", True),  # the article goes, and the title's end counts for nothing
        ("oslo house", False),  # not across passages
        ("首都", True),  # no spaces between words
        ("人民", True),
        ("上海", False),
    ],
)
def test_an_answer_occurs_where_its_words_stand_one_after_the_other(corpus: str, answer: str, occurs: bool) -> None:
    assert answers_in_corpus({normalize_answer(answer)}, corpus) == ({normalize_answer(answer)} if occurs else set())


def test_a_question_is_kept_for_one_of_its_answers(corpus: str) -> None:
    golds = [("Bergen", "Oslo"), ("Bergen",), ("!?", "1040"), ("The The",)]
    assert with_answer_in(golds, corpus) == [0, 2]
    assert with_answer_in([], corpus) == []
    with pytest.raises(DataError, match=r"an answer of at least one of 1 questions in .*corpus.jsonl.gz, got none"):
        with_answer_in(golds[1:2], corpus)


def test_an_answer_of_articles_alone_is_looked_for_as_it_is(write_jsonl: Write) -> None:
    corpus = write_jsonl({"id": 0, "contents": '"The The"\nThe The are a band.'}, name="corpus.jsonl")
    assert with_answer_in([("The The",), ("---",)], corpus) == [0]


def test_the_filter_agrees_with_a_search_by_hand(write_jsonl: Write) -> None:
    generator = random.Random(0)
    words = [f"w{n}" for n in range(12)]
    texts = [" ".join(generator.choices(words, k=15)) for _ in range(20)]
    path = write_jsonl(*[{"id": n, "contents": text} for n, text in enumerate(texts)], name="corpus.jsonl")
    answers = {" ".join(generator.choices(words, k=generator.randint(1, 4))) for _ in range(400)}
    expected = {
        answer
        for answer in answers
        for text in texts
        for at in range(15)
        if text.split()[at : at + len(answer.split())] == answer.split()
    }
    assert answers_in_corpus(answers, path) == expected
    assert 20 < len(expected) < len(answers) - 20


def test_the_filter_comes_before_the_limit_and_is_on_record(write_jsonl: Write, corpus: str) -> None:
    rows = [{"question": f"Q{n}?", "answer": ("Bergen", "Oslo", "1040")[n % 3]} for n in range(9)]
    questions = read_source(DataSource(write_jsonl(*rows), answers_in=corpus, limit=4))
    assert [prompt.question for prompt in questions.prompts] == ["Q1?", "Q2?", "Q4?", "Q5?"]
    record = questions.describe()
    assert record["questions"] == 4
    assert record["answers_in"] == {"corpus_sha256": file_hash(corpus), "with_answer": 6, "without_answer": 3}
    (line,) = questions.notes()
    assert line.endswith(f"an answer of 6 of 9 questions occurs in {corpus}")


def test_a_corpus_that_cannot_be_read_is_an_error_with_its_row(write_jsonl: Write, tmp_path: Path) -> None:
    golds = [("Oslo",)]
    with pytest.raises(DataError, match=r"corpus.jsonl:1: Expected the fields `contents`"):
        with_answer_in(golds, write_jsonl({"words": 3}, name="corpus.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        with_answer_in(golds, tmp_path / "nowhere.jsonl")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the shared research data is not on this machine")
def test_real_questions_are_kept_by_a_real_corpus() -> None:
    corpus = str(REAL / "corpus" / "wiki40k.jsonl.gz")
    questions = read_source(DataSource(str(REAL / "questions" / "r1searcher_hotpotqa_500.jsonl"), answers_in=corpus))
    assert json.dumps(questions.describe())
    assert 433 <= len(questions.prompts) < 500  # the corpus holds the passages of 433 of them
