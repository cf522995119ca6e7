"""The campaign finds what is broken, counts it, and the page shows what was counted."""

import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llds.rollout import ChatToolProtocol, TagProtocol
from llds.types import Action, ToolResult
from tools.campaign import extensions, files, protocols
from tools.campaign.__main__ import begin
from tools.campaign.chat_protocols import FuzzedChat
from tools.campaign.kills import CASES, PHASES, make_plans
from tools.campaign.table import Outcome, Store, Table


def test_the_page_shows_what_is_stored() -> None:
    page = Path("docs/reliability.md").read_text()
    shown = page.partition("<!-- campaign -->\n")[2].partition("\n<!-- /campaign -->")[0]
    assert shown.splitlines() == Table.load().lines()


def test_outcomes_add_up_and_come_back_from_the_file(tmp_path: Path) -> None:
    table = Table()
    for outcome in (Outcome("a", count=3), Outcome("a", "gone", count=5, lost=2), Outcome("b", "gone")):
        table.add("kind", outcome, seed=7)
    table.save(tmp_path / "table.json")
    again = Table.load(tmp_path / "table.json")
    assert again.lines()[2:] == ["| kind | a | 8 | 6 | 2 |", "| kind | b | 1 | 0 | 1 |"]
    assert again.lost == 3
    assert list(again.notes()) == ["kind, a: gone", "kind, b: gone"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from tools.campaign.table import Outcome, Store
store = Store(Path(sys.argv[1]), seed=3, every_s=0.0)
for outcome in (Outcome("a", count=3), Outcome("b", "gone"), Outcome("a", count=2)):
    store.add("pages", outcome)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_campaign_that_is_killed_keeps_its_counts_and_the_next_one_adds_to_them(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    begin(path, adds=False, kinds=["pages"], seed=3)
    assert subprocess.run([sys.executable, "-c", _KILLED, str(path)]).returncode == -signal.SIGKILL
    assert Table.load(path).lines()[2:] == ["| pages | a | 5 | 5 | 0 |", "| pages | b | 1 | 0 | 1 |"]
    with pytest.raises(SystemExit, match=r"a seed that table.json has not counted, got 3 \(pages, a\)"):
        begin(path, adds=True, kinds=["pages"], seed=3)  # its tries would be the same ones
    begin(path, adds=True, kinds=["pages"], seed=4)
    stores = [Store(path, seed=4), Store(path, seed=5)]  # two at once
    for store in stores:
        store.add("pages", Outcome("a"))  # the first is stored as it comes
        store.add("pages", Outcome("a"))  # soon after: with the next, or at the end
    for store in stores:
        store.save()
    count = Table.load(path).counts["pages", "a"]
    assert (count.tries, count.lost, count.seeds) == (9, 0, [3, 4, 5])


class Leaky(TagProtocol):
    """Lets a tool's tags through, and reads an action from its end."""

    def neutralize(self, text: str, tool_names: object) -> str:
        """Do nothing."""
        return text


def test_the_fuzz_finds_a_protocol_that_lets_tags_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "BLOCK", 200)
    [tags, *_] = protocols.PROTOCOLS
    leaky = protocols.Fuzzed("leaky", lambda: Leaky(say_why=True), tags.words)
    assert protocols._observations(leaky, random.Random(0)).lost > 20
    assert protocols._observations(tags, random.Random(0)).lost == 0
    assert protocols._actions(leaky, random.Random(0)).lost > 0
    assert protocols._actions(tags, random.Random(0)).lost == 0


class LeakyChat(ChatToolProtocol):
    """Lets marks through, and changes an argument."""

    def neutralize(self, text: str, tool_names: object) -> str:
        """Do nothing."""
        return text

    def parse(self, text: str, tool_names: Sequence[str]) -> Action:
        """Change an argument, but not in the self-test, which would see it."""
        action = super().parse(text, tool_names)
        calls = tuple(
            replace(call, arguments={**call.arguments, "top": 99} if "top" in call.arguments else call.arguments)
            for call in action.calls
        )
        return replace(action, calls=calls)


def test_the_fuzz_finds_a_chat_protocol_that_lets_marks_through_or_changes_an_argument(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocols, "BLOCK", 200)
    draw, chat = random.Random(0), FuzzedChat("qwen3_5", ("<", "x", "\n"))
    assert [protocols._observations(chat, draw).lost, protocols._actions(chat, draw).lost] == [0, 0]
    leaky = FuzzedChat("qwen3_5", ("<", "x", "\n"))
    leaky.protocol = LeakyChat()  # type: ignore[misc]
    leaky.protocol.attach(chat.tokenizer, chat.tools)
    assert protocols._observations(leaky, draw).lost > 20
    assert "reads back" in leaky._wrong_call("y", draw)


def test_a_tool_whose_fault_is_answered_and_a_reward_that_counts_are_lost() -> None:
    assert extensions._collects(lambda: ToolResult("looks fine")) == str(["answered"] * 8)
    assert extensions._scores(lambda _: 0.5) == "0.5 is trained on"


def test_a_reader_that_raises_is_lost_and_one_that_refuses_is_not(tmp_path: Path) -> None:
    assert "KeyError" in files._try(tmp_path / "x", b"", lambda path: {}[path])
    assert files._try(tmp_path / "q.jsonl", b"[", files._questions) == ""


def test_kills_come_in_order_with_the_index_first_and_the_export_last() -> None:
    plans = make_plans(12, 8, random.Random(0))
    assert (plans[0].phase, plans[-1].phase, len(plans)) == ("index", "export", 12)
    assert {plan.phase for plan in plans} == {"index", "export", *PHASES}
    assert [plan.iteration for plan in plans] == sorted(plan.iteration for plan in plans)


def test_every_overlay_of_a_rollout_in_processes_of_ours_is_killed() -> None:
    used = {part for settings in CASES.values() for part in settings}
    others = {path for name in ("gpu", "server") for path in Path("conf/rollout").glob(f"vllm*{name}*.yaml")}
    assert {str(path) for path in set(Path("conf/rollout").glob("*.yaml")) - others} <= used
