"""Demonstrations for the warm-up: episodes as a search agent would live them, in real and in invented worlds.

Real ones are about training countries and hold what a search really finds; invented ones are about names that exist
nowhere, so that the only way to fit them is to copy from the passages. A `Conduct` says how often the demonstrator
errs: the warm-up first shows good conduct, then the imperfect one that leaves reinforcement learning something to do.

Left out: facts about validation and test countries. They occur only as passages that a search happens to find, and the
loss is never on observations.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from llds.agent_tools.search import format_passages
from llds.retrieval import Passage

from retrieval import TOP_K, ExactSearch
from world import FIELDS, Country, fact_id, fact_text, one_hop_question, place_id, place_text, two_hop_question


@dataclass(frozen=True)
class Conduct:
    """How often a demonstrator errs, as probabilities.

    Attributes:
        bad_query: A search for the field alone, the country alone or words of the question.
        stop_early: A two-hop question is answered after the first search.
        wrong_span: The answer is another name from the passages.
    """

    bad_query: float = 0.0
    stop_early: float = 0.0
    wrong_span: float = 0.0


@dataclass(frozen=True)
class Demonstration:
    """An episode without its form: the question, queries and what was found in turns, and the answer."""

    question: str
    queries: list[str]
    bodies: list[str]
    answer: str


def _passage(title: str, text: str) -> Passage:
    return Passage("", title, text)


@dataclass(frozen=True)
class _Task:
    """A question with what its passages say."""

    question: str
    field: str
    country: str
    value: str
    place: str | None


PassagesOf = Callable[[_Task, str], list[Passage]]


class Demonstrator:
    """Draws demonstrations.

    Args:
        countries: The training countries.
        search: The search over the real corpus.
        pieces: Pieces of names: those that begin a word (with a capital), those that go on.
        seed: Seed of all draws.
    """

    def __init__(
        self, countries: list[Country], search: ExactSearch, pieces: tuple[list[str], list[str]], seed: int
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311 (not cryptography)
        self.search = search
        self.heads, self.tails = pieces
        self.one_hop = [(country, field) for country in countries for field in country.facts]
        self.bridged = [country for country in countries if country.bridges]
        self.names = [place for country in countries for place in country.places]
        self.names += [value for country in countries for value in country.facts.values()]
        self.names += [country.name for country in countries]
        self.letters = sorted({c for name in self.names for c in name if c.isalpha() and not c.isascii()}) or [*"aeiou"]
        self._found: dict[str, list[int]] = {}
        self._row = {passage_id: row for row, passage_id in enumerate(search.ids)}

    def prefetch(self) -> None:
        """Ask all good searches of real demonstrations at once."""
        queries = [f"{field} of {country.name}" for country, field in self.one_hop]
        queries += [place for country in self.bridged for place in country.bridges]
        self._found |= dict(zip(queries, self.search.search(queries), strict=True))

    def draw(
        self, count: int, conduct: Conduct, share_invented: float, share_two_hop: float = 0.6
    ) -> list[Demonstration]:
        """Draw demonstrations; real ones whose good searches miss their passage are drawn again."""
        drawn: list[Demonstration] = []
        while len(drawn) < count:
            is_two_hop = self.rng.random() < share_two_hop
            invented = self.rng.random() < share_invented
            demonstration = (self._invented if invented else self._real)(is_two_hop, conduct)
            if demonstration is not None:
                drawn.append(demonstration)
        return drawn

    def _real(self, is_two_hop: bool, conduct: Conduct) -> Demonstration | None:
        if is_two_hop:
            country = self.rng.choice(self.bridged)
            place, field = self.rng.choice(country.bridges), self.rng.choice(list(country.facts))
            gold = [place_id(country, place), fact_id(country, field)]
        else:
            country, field = self.rng.choice(self.one_hop)
            place, gold = None, [fact_id(country, field)]
        question = two_hop_question(field, place) if place else one_hop_question(field, country.name)
        task = _Task(question, field, country.name, country.facts[field], place)
        good = ([place] if place else []) + [f"{field} of {country.name}"]
        if any(self._row[row] not in self._look_up(query) for query, row in zip(good, gold, strict=True)):
            return None
        return self._act(task, conduct, self._real_passages)

    def _look_up(self, query: str) -> list[int]:
        if query not in self._found:
            self._found[query] = self.search.search([query])[0]
        return self._found[query]

    def _real_passages(self, task: _Task, query: str) -> list[Passage]:
        return [self.search.passages[row] for row in self._look_up(query)]

    def _invented(self, is_two_hop: bool, conduct: Conduct) -> Demonstration:
        country, place = self._name(), self._name() if is_two_hop else None
        field = self.rng.choice(FIELDS)
        question = two_hop_question(field, place) if place else one_hop_question(field, country)
        return self._act(_Task(question, field, country, self._value(field), place), conduct, self._invented_passages)

    def _invented_passages(self, task: _Task, query: str) -> list[Passage]:
        kind = self.rng.choice(("city",) * 12 + ("river", "lake"))
        if query == task.place:
            gold = _passage(task.place, place_text(task.place, kind, task.country))
        elif query == f"{task.field} of {task.country}":
            gold = _passage(task.country, fact_text(task.field, task.country, task.value))
        else:
            gold = self._distractor(task, query)
        rows = [gold] + [self._distractor(task, query) for _ in range(TOP_K - 1)]
        if self.rng.random() < 0.15:
            self.rng.shuffle(rows)
        return rows

    def _distractor(self, task: _Task, query: str) -> Passage:
        draw = self.rng.random()
        if query == task.place or draw < 0.15:
            name = self._similar(task.place or task.country) if draw < 0.7 else self._name()
            return _passage(name, place_text(name, "city", self._name()))
        field = self.rng.choice(FIELDS)
        if draw < 0.55:
            other = self.rng.choice([item for item in FIELDS if item != task.field])
            return _passage(task.country, fact_text(other, task.country, self._value(other)))
        name = self._similar(task.country) if draw < 0.8 else self._name()
        field = task.field if draw < 0.95 else field
        return _passage(name, fact_text(field, name, self._value(field)))

    def _act(self, task: _Task, conduct: Conduct, passages_of: PassagesOf) -> Demonstration:
        good = ([task.place] if task.place else []) + [f"{task.field} of {task.country}"]
        if task.place and self.rng.random() < conduct.stop_early:
            good = good[:1]
        queries: list[str] = []
        bodies: list[str] = []
        seen: list[Passage] = []
        for query in good:
            bad = self.rng.random() < conduct.bad_query
            query = self._bad_query(task) if bad else query
            found = passages_of(task, query)
            queries.append(query)
            bodies.append(format_passages(found))
            seen += found
            if bad:
                break
        knows = any(passage.text == fact_text(task.field, task.country, task.value) for passage in seen)
        answer = task.value if knows and self.rng.random() >= conduct.wrong_span else self._wrong_span(seen)
        return Demonstration(task.question, queries, bodies, answer)

    def _bad_query(self, task: _Task) -> str:
        topic = task.place or task.country
        words = task.question.rstrip("?").split()
        cut = self.rng.randrange(2, len(words))
        other = self.rng.choice([field for field in FIELDS if field != task.field])
        return self.rng.choice((task.field, " ".join(words[:cut]), f"{other} of {topic}"))

    def _wrong_span(self, seen: list[Passage]) -> str:
        passage = self.rng.choice(seen)
        last = passage.text.rstrip(".").split(" is ")[-1].split(" in ")[-1]
        return self.rng.choice((passage.title, last, last))

    def _value(self, field: str) -> str:
        if field == "internet domain":
            return "." + "".join(self.rng.choices("abcdefghijklmnopqrstuvwxyz", k=2))
        return self._name()

    def _name(self) -> str:
        draw = self.rng.random()
        if draw < 0.4:
            return self.rng.choice(self.names)
        if draw < 0.55:
            return self._similar(self.rng.choice(self.names))
        return " ".join(self._word() for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3))))

    def _word(self) -> str:
        return self.rng.choice(self.heads) + "".join(self.rng.choices(self.tails, k=self.rng.choice((0, 1, 1, 2))))

    def _similar(self, name: str) -> str:
        """Another name that shares a part with this one."""
        words = name.split()
        if len(words) > 1 and self.rng.random() < 0.5:
            words[self.rng.randrange(len(words))] = self._word()
            return " ".join(words)
        if self.rng.random() < 0.5:
            return f"{name} {self._word()}" if self.rng.random() < 0.5 else f"{self._word()} {name}"
        place = self.rng.randrange(len(name))
        return name[:place] + self.rng.choice(self.letters) + name[place + 1 :]
