"""What a configuration may hold, and the nearest right word to a wrong one.

Two sources: the options of the parser (``rollout.limits.turns``), and the parameters of the classes that a
configuration names (those of `LLDSPenalty` below ``model.llds_penalty``). Knows nothing of error messages.
"""

import importlib
import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints


def nearest(word: str, accepted: Iterable[str], prefix: str = "") -> str:
    """A sentence with the accepted word that is closest, or with all of them if none is close.

    Args:
        word: What came.
        accepted: What may come instead.
        prefix: What to write before each accepted word.
    """
    options = {option.lower(): option for option in sorted(accepted)}
    close = get_close_matches(word.lower(), options, n=1)
    if close:
        return f"Did you mean `{prefix}{options[close[0]]}`?"
    return f"Choose from {', '.join(options.values())}." if options else ""


def children(prefix: str, options: Iterable[str]) -> set[str]:
    """The words that may follow a dotted prefix ("" at the top).

    Args:
        prefix: Dotted key without a trailing dot.
        options: All dotted keys.
    """
    start = f"{prefix}." if prefix else ""
    return {option.removeprefix(start).split(".")[0] for option in options if option.startswith(start)}


def import_object(path: str) -> Any:
    """What a dotted path names; None if there is no such thing."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def parameters(class_path: str, group: str = "") -> list[str]:
    """Names of the parameters of a class, or of the dataclass that one of its parameters takes.

    Args:
        class_path: Dotted path of the class.
        group: The parameter that takes the dataclass, dotted if it is nested; "" for the class itself.
    """
    found = import_object(class_path)
    for name in filter(None, group.split(".")):
        hint = get_type_hints(found.__init__).get(name) if inspect.isclass(found) else None
        found = next((one for one in (hint, *get_args(hint)) if inspect.isclass(one) and one is not type(None)), None)
    return list(inspect.signature(found).parameters) if callable(found) else []


def nearest_class(class_path: str) -> str:
    """A sentence with the class path that is closest to one that leads nowhere.

    Args:
        class_path: Dotted path.
    """
    words = class_path.split(".")
    for end in range(len(words) - 1, 0, -1):
        try:
            module = importlib.import_module(".".join(words[:end]))
        except ImportError:
            continue
        public = vars(module).get("__all__") or [name for name in vars(module) if not name.startswith("_")]
        return nearest(words[end], public, prefix=f"{module.__name__}.")
    return (
        f"No module `{words[0]}` can be imported: check the spelling; a module of yours belongs beside the file that "
        "names it, in the working directory, or in a folder of `import_from`."
    )
