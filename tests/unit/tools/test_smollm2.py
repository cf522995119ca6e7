"""The rule that finds evidence: names of the corpus in a question, then in what a search shows."""

import pytest

from tools.smollm2.evidence import Evidence, EvidenceFinder, Names, frequent

PAGES = {
    "Hunger (novel)": "Hunger is a novel by the Norwegian author Knut Hamsun.",
    "Knut Hamsun": "Knut Hamsun was born in Lom, Norway.",
    "Hamsun": "Hamsun is a surname.",
    "Growth of the Soil": "Growth of the Soil won the Nobel Prize.",
    "What": "What is a word.",
    "Norway": "Norway is a country.",
}


def shown(query: str) -> str:
    """The page whose title begins with the query, as a search tool shows it."""
    [title] = [title for title in PAGES if title.startswith(query)][:1] or ["Norway"]
    return f'Doc 1(Title: "{title}") {PAGES[title]}'


@pytest.fixture
def finder() -> EvidenceFinder:
    return EvidenceFinder(Names(PAGES), shown)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Where was the author of the novel Hunger born?", ["Hunger"]),
        ("Did Knut Hamsun write Hunger? Knut Hamsun did.", ["Knut Hamsun", "Hunger"]),  # not Hamsun, and once
        ("What is Hungersnod, and what are the Hamsuns?", []),  # parts of words, and the word that begins
        ("Growth of the Soil, by whom?", ["Growth of the Soil"]),
    ],
)
def test_names_are_whole_words_and_the_longest(text: str, names: list[str]) -> None:
    assert Names(PAGES).find(text) == names


@pytest.mark.parametrize(
    ("question", "answer", "evidence"),
    [
        ("Hunger?", "Knut Hamsun", Evidence("one_search", ("Hunger",))),  # the question itself
        ("Who wrote the novel Hunger?", "Knut Hamsun", Evidence("one_search", ("Hunger",))),
        ("Where was the author of Hunger born?", "Lom", Evidence("two_searches", ("Hunger", "Knut Hamsun"))),
        ("Are Hunger and Growth of the Soil both novels?", "yes",
         Evidence("comparison", ("Hunger", "Growth of the Soil"))),
        ("Which is older, Hunger or Growth of the Soil?", "Hunger",
         Evidence("comparison", ("Hunger", "Growth of the Soil"))),
        ("Is Hunger a novel?", "yes", None),  # nothing to compare with
        ("Where was the author of Hunger born?", "Oslo", None),
        ("Where was he born?", "Lom", None),
    ],
)  # fmt: skip
def test_evidence_is_what_searches_for_names_show(
    finder: EvidenceFinder, question: str, answer: str, evidence: Evidence | None
) -> None:
    assert finder.find(question, [answer]) == evidence


def test_an_answer_that_stands_in_many_passages_is_frequent() -> None:
    assert frequent(["novel", "The Norway.", "word", "no such"], PAGES.values(), most=1) == {"The Norway."}
    assert frequent(["novel", "Hamsun", "---"], PAGES.values(), most=2) == {"Hamsun"}
