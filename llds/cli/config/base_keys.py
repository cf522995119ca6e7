"""Every key that a user sets, as conf/base.yaml names it: the classes of a configuration hide theirs from the parser.

Serves the help, which lists them, and messages about a key that stands somewhere else.
"""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from textwrap import wrap
from typing import Any

import yaml

from llds.cli.config.accepted import nearest
from llds.cli.config.shipped import shipped_file

_ALSO_CALLED = {
    "lr": "model.optimization.learning_rate",
    "lambda": "model.llds_penalty.coefficient",
    "beta": "model.kl_penalty.coefficient",
    "kl_coef": "model.kl_penalty.coefficient",
    "num_generations": "rollout.group_size",
    "epochs": "data.iterations",
    "steps": "data.iterations",
    "max_steps": "data.iterations",
    "temp": "rollout.sampling.temperature",
    "devices": "trainer.devices",
    "seed": "seed_everything",
}
"""What other trainers call a key."""
_CLOSE = 0.8
_WIDTH = 110


@lru_cache(maxsize=1)
def base_keys() -> dict[str, Any]:
    """Dotted keys with their values, as the command line takes them; that of a class is its path."""
    return dict(_flat(yaml.safe_load(shipped_file("base").read_text(encoding="utf-8"))))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for word, value in values.items():
        if word == "class_path":
            yield prefix, value
        elif isinstance(value, Mapping):
            yield from _flat(value, prefix if word == "init_args" else f"{prefix}.{word}".lstrip("."))
        else:
            yield f"{prefix}.{word}".lstrip("."), value


def right_key(word: str, accepted: Collection[str], prefix: str) -> str:
    """A sentence with the key that is meant: of this place or of another; with all of this place if none is close.

    Args:
        word: What came; also what other trainers call a key.
        accepted: What may come instead.
        prefix: What to write before each accepted word.
    """
    meant = _ALSO_CALLED.get(word, "")
    if meant.rpartition(".")[2] in accepted:
        return f"Did you mean `{prefix}{meant.rpartition('.')[2]}`?"
    by_word: dict[str, list[str]] = {}
    for key in base_keys():
        by_word.setdefault(key.rpartition(".")[2], []).append(key)
    here = nearest(word, accepted, prefix)
    found = [meant] if meant else by_word.get(word, [])
    if not found and not here.startswith("Did you mean"):
        close = get_close_matches(word, by_word, n=1, cutoff=_CLOSE)
        found = by_word[close[0]] if close else []
    found = [key for key in found if key != f"{prefix}{word}"]  # what came is no hint
    return f"Did you mean {' or '.join(f'`{key}`' for key in found[:3])}?" if found else here


def keys_of_classes(known: set[str]) -> str:
    """The keys that a parser does not list, by the class that they belong to, as lines for the end of a help.

    Args:
        known: Dotted keys that it lists.
    """
    by_class: dict[str, list[str]] = {}
    for key in base_keys():
        group, _, word = key.rpartition(".")
        if group and key not in known:
            by_class.setdefault(group, []).append(word)
    texts = [f"{group}: {', '.join(words)}" for group, words in by_class.items()]
    lines = [wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ") for text in texts]
    return "\n".join(line for part in lines for line in part)
