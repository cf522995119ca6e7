"""Real facts about countries, cleaned: from `pyworldatlas` to passages and the questions that they answer.

First step of the quickstart's data; `make_world.py` writes what this returns. Every fact becomes one sentence, because
the quickstart trains a policy of 1.7 M parameters on a CPU and reads every token of every passage that a search finds.

Left out: facts whose name is ambiguous (a city, river or lake name that occurs in two countries), free text
("unnamed elevation on ..."), and everything that is a number.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from pyworldatlas import Atlas
from pyworldatlas import Country as AtlasCountry

FIELDS = (
    "capital",
    "currency",
    "highest peak",
    "lowest elevation",
    "national anthem",
    "internet domain",
    "region",
    "demonym",
    "language",
)
"""What a question asks about a country."""

_MAX_NAME_CHARS = 32
_FREE_TEXT = re.compile(
    r"[0-9()\[\]/\"“”*;:,|]|unnamed|junction| or |\b(?:on|of the|near|in|and)\b.*\b(?:coast|Island|Range)\b"
)
_PARENTHESIS = re.compile(r"\s*\(.*")


@dataclass(frozen=True)
class Passage:
    """One sentence of the corpus.

    Attributes:
        passage_id: Unique in the corpus.
        title: What the passage is about.
        text: The sentence.
    """

    passage_id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """Search-R1's form: the title in quotes, a line break, the text."""
        return f'"{self.title}"\n{self.text}'


@dataclass(frozen=True)
class Country:
    """A country with its facts.

    Attributes:
        code: ISO 3166 code of two letters.
        name: Its English name.
        facts: Value of each of `FIELDS` that is known.
        places: Cities, rivers and lakes that lie in this country only: name to kind.
        bridges: The places that a two-hop question may start from: no name that holds the capital's or the
            country's name, or that is a part of another place's name.
    """

    code: str
    name: str
    facts: dict[str, str]
    places: dict[str, str]
    bridges: tuple[str, ...]


def fact_text(field: str, country: str, value: str) -> str:
    """The sentence that states a fact about a country."""
    return f"The {field} of {country} is {value}."


def place_text(place: str, kind: str, country: str) -> str:
    """The sentence that says in which country a place lies."""
    return f"{place} is a {kind} in {country}."


def one_hop_question(field: str, country: str) -> str:
    """A question that one passage answers."""
    return f"What is the {field} of {country}?"


def two_hop_question(field: str, place: str) -> str:
    """A question that needs the place's passage to find the passage that answers it."""
    return f"What is the {field} of the country where {place} lies?"


def fact_id(country: Country, field: str) -> str:
    """Id of the passage that states a fact."""
    return f"{country.code}-{field.replace(' ', '_')}"


def place_id(country: Country, place: str) -> str:
    """Id of the passage that says where a place lies."""
    return f"{country.code}-place-{list(country.places).index(place):03d}"


def read_countries() -> list[Country]:
    """Read the atlas: countries with a capital, in the order of their codes, without ambiguous names."""
    with Atlas() as atlas:
        profiles = [profile for profile in atlas.countries() if profile.capital is not None]
        places = {profile.alpha2: _places(atlas, profile) for profile in profiles}
    names = {profile.alpha2: _country_name(profile.name) for profile in profiles}
    owners = Counter(key for own in places.values() for key in {_key(name) for name, _ in own})
    owners.update(_key(name) for name in names.values())
    parts = Counter(part for key in owners for part in _parts(key))
    countries = []
    for profile in sorted(profiles, key=lambda item: item.alpha2):
        own = {name: kind for name, kind in places[profile.alpha2] if owners[_key(name)] == 1 and is_clean(name)}
        hidden = (_capital(profile), names[profile.alpha2])
        bridges = tuple(name for name in own if parts[_key(name)] == 0 and not any(word in name for word in hidden))
        countries.append(Country(profile.alpha2, names[profile.alpha2], _facts(profile), own, bridges))
    return countries


def passages(countries: list[Country]) -> list[Passage]:
    """The corpus: one passage per fact and one per place."""
    rows = []
    for country in countries:
        for field, value in country.facts.items():
            rows.append(Passage(fact_id(country, field), country.name, fact_text(field, country.name, value)))
        for place, kind in country.places.items():
            rows.append(Passage(place_id(country, place), place, place_text(place, kind, country.name)))
    return rows


def is_clean(name: str) -> bool:
    """Whether a name is a plain name: short, capitalised, without numbers, notes or lists."""
    return 2 < len(name) <= _MAX_NAME_CHARS and name[0].isupper() and _FREE_TEXT.search(name) is None


def _capital(profile: AtlasCountry) -> str:
    return profile.capital.name if profile.capital else ""


def _facts(profile: AtlasCountry) -> dict[str, str]:
    values = {
        "capital": _capital(profile),
        "currency": profile.currency.name if profile.currency else None,
        "highest peak": profile.highest_point.name if profile.highest_point else None,
        "lowest elevation": profile.lowest_point.name if profile.lowest_point else None,
        "national anthem": profile.anthem.title if profile.anthem else None,
        "region": profile.subregion,
        "demonym": profile.demonym.adjective if profile.demonym else None,
        # Several languages come in the order of their codes: none of them is the main one.
        "language": profile.languages[0].name if len(profile.languages) == 1 else None,
    }
    cleaned = {field: _PARENTHESIS.sub("", value).strip() for field, value in values.items() if value}
    # Monaco, Singapore, ...: a question about the capital would hold its answer.
    facts = {field: value for field, value in cleaned.items() if is_clean(value) and value not in profile.name}
    return facts | ({"internet domain": profile.top_level_domain} if profile.top_level_domain else {})


def _places(atlas: Atlas, profile: AtlasCountry) -> list[tuple[str, str]]:
    cities = [(city.name.strip(), "city") for city in atlas.major_cities(profile.alpha2)]
    waters = [(river, "river") for river in profile.rivers] + [(lake, "lake") for lake in profile.lakes]
    return cities + [(water.name.strip(), kind) for water, kind in waters if "shared" not in water.source_label]


def _country_name(name: str) -> str:
    return name.strip().removeprefix("The ")


def _key(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name)
    return re.sub(r"[^a-z0-9]+", " ", "".join(c for c in plain if not unicodedata.combining(c)).lower()).strip()


def _parts(key: str) -> set[str]:
    """The proper parts of a name: its shorter runs of words."""
    words = key.split()
    runs = {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
    return runs - {key}
