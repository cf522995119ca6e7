"""Secrets stay out of what is written: configurations, command lines, evaluation cards.

Known by the name of their setting, or by the form of the value. What the agent reads and writes is data, and stays.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

HIDDEN = "(not written)"
"""What stands in the place of a secret."""

_NAME = re.compile(
    r"(?:^|[._-])(?:api_?key|access_?key|private_?key|secret(?:_?key)?|(?:api|auth|access|hf|bearer)_?token|token"
    r"|pass(?:word|wd|phrase)|credentials?|authorization)$",
    re.IGNORECASE,
)
_WORDS_OF_TOKENIZERS = re.compile(r"(?:^|[._-])(?:bos|eos|pad|unk|sep|cls|mask)_token$")
_VALUES = re.compile(
    r"hf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\b(?:sk|pk|rk)(?:-|_live_|_test_)(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{16,}"  # OpenAI, Anthropic, Stripe
    r"|\bgh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{16,}"  # GitHub, GitLab
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|AIza[A-Za-z0-9_-]{35}"  # AWS, Google
    r"|xox[abprs]-[A-Za-z0-9-]{10,}|\bnpm_[A-Za-z0-9]{16,}|\bpypi-[A-Za-z0-9_-]{16,}"  # Slack, npm, PyPI
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+"  # JSON web tokens
    r"|(?<=://)[^/\s@]+(?=@)"  # user and password of an address
    r"|(?<=Bearer )\S+"
    r"|(?<=[?&])(?:api_?key|key|token|access_token|password)=[^&\s]+"
)


def redacted(value: Any) -> Any:
    """Return a copy of JSON-like values without secrets.

    Args:
        value: Mappings, lists, texts and numbers.
    """
    if isinstance(value, dict):
        return {name: HIDDEN if _is_secret(name, one) else redacted(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(one) for one in value]
    return _VALUES.sub(HIDDEN, value) if isinstance(value, str) else value


def redacted_command(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without secrets: ``--KEY SECRET`` and ``--KEY=SECRET`` too.

    Args:
        words: The words.
    """
    return list(_redacted_words(words))


def _redacted_words(words: Iterable[str]) -> Iterable[str]:
    previous = ""
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key.startswith("-") and _is_secret(key, value):
            yield f"{key}={HIDDEN}"
        else:
            yield HIDDEN if previous.startswith("-") and _is_secret(previous, word) else redacted(word)
        previous = word


def _is_secret(name: object, value: object) -> bool:
    is_name = isinstance(name, str) and bool(_NAME.search(name)) and not _WORDS_OF_TOKENIZERS.search(name)
    return is_name and isinstance(value, str) and value not in ("", "null")
