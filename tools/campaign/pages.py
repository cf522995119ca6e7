"""Hostile words in a run: whatever questions, tools, policies and settings say, the report runs none of it."""

import gzip
import json
import random
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

from llds.report import read_run, write_report
from tools.campaign.table import Outcome

_MARK = "ZQZ"
WORDS = (
    f"<script>{_MARK}()</script>", f"</script><script>{_MARK}()</script>", f"<img src=x onerror={_MARK}()>",
    f'"><svg onload={_MARK}()>', f"'-{_MARK}()-'", f"javascript:{_MARK}()", f"<a href='javascript:{_MARK}()'>x</a>",
    f"{{{{{_MARK}}}}}", f"{{% {_MARK} %}}", f"${{{_MARK}}}", f"<!--{_MARK}", f"--><script>{_MARK}()</script>",
    f"<style>@import '{_MARK}'</style>", f"<iframe srcdoc='<script>{_MARK}()</script>'>", f"<base href=//{_MARK}>",
    f"<meta http-equiv=refresh content='0;url={_MARK}'>", f"<form action={_MARK}><input autofocus onfocus={_MARK}()>",
    f"\u2028{_MARK}", f"&lt;script&gt;{_MARK}", f"<title></title><script>{_MARK}()</script>", f"\x00<script>{_MARK}",
    f"<math><mtext><script>{_MARK}()</script>", f"<template><script>{_MARK}()</script>",
    f"]]><script>{_MARK}()</script>",
)  # fmt: skip


class _Elements(HTMLParser):
    """Finds elements and attributes that hold the mark where it could run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_comment(self, data: str) -> None:
        """A comment that somebody else has opened could hide a part of the page."""
        if _MARK in data:
            self.found.append("a comment")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at an element."""
        self.scripts += tag == "script"
        for name, value in attrs:
            runs = name.startswith("on") or name in ("src", "href", "srcdoc", "action", "http-equiv")
            if runs and _MARK in (value or ""):
                self.found.append(f"<{tag} {name}={value!r}>")
        if tag in ("iframe", "base", "meta", "form", "object", "embed") and any(
            _MARK in (one or "") for _, one in attrs
        ):
            self.found.append(f"<{tag}>")


def tries(draw: random.Random, folder: Path) -> Iterator[Outcome]:
    """Reports of runs in which everybody says hostile things, for ever."""
    plain = _elements(_write(folder / "plain", lambda: "x")).scripts
    while True:
        page = _write(folder / "hostile", lambda: "".join(draw.choices(WORDS, k=draw.randint(1, 3))))
        yield Outcome("a report full of markup", _wrong(page, plain), count=len(WORDS))


def _wrong(page: str, scripts: int) -> str:
    elements = _elements(page)
    if elements.found:
        return f"{elements.found[0]} in the page"
    if elements.scripts != scripts:
        return f"{elements.scripts} scripts in the page instead of {scripts}"
    return ""


def _elements(page: str) -> _Elements:
    elements = _Elements()
    elements.feed(page)
    return elements


def _write(folder: Path, word: Callable[[], str]) -> str:
    """A run whose every text is a word, and its report."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "trajectories").mkdir(parents=True)
    (folder / "incidents" / "iteration-000002-roll-back").mkdir(parents=True)
    (folder / "incidents" / "iteration-000002-roll-back" / "decision.md").write_text(f"## {word()}\n\n- {word()}\n")
    (folder / "metrics.csv").write_text("iteration,reward/mean\n" + "".join(f"{i},0.{i}\n" for i in range(8)))
    (folder / "config.yaml").write_text(json.dumps({word(): word(), "model": {"class_path": word(), word(): [word()]}}))
    for iteration in (1, 7):
        with gzip.open(folder / "trajectories" / f"iteration-{iteration:06d}.jsonl.gz", "wt") as file:
            file.write(json.dumps(_trajectory(word)) + "\n")
    return write_report([read_run(folder, name=word())], folder / "report.html").read_text()


def _trajectory(word: Callable[[], str]) -> dict[str, object]:
    tokens = [word(), word()]
    turn = {
        "action": "".join(tokens), "action_tokens": tokens, "log_prob_changes": [-0.5, 0.25],
        "behavior_log_probs": [-0.1, -0.2], "observation": word(), "document_ids": [word()],
    }  # fmt: skip
    return {
        "question": word(), "golden_answers": [word()], "answer": word(), "reward": 0.0, "advantage": -0.5,
        "status": "out_of_turns", "group_id": word(), "turns": [turn],
    }  # fmt: skip
