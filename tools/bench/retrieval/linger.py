"""Queries per call and time of a rollout's searches, where a scan costs the same for one query as for many.

    python tools/bench/retrieval/linger.py

`--episodes` episodes search `--searches` times; each completion before a search takes 2 to 6 s, drawn evenly. The
retriever scans for `--scan-s` seconds a call, one scan at a time, as a flat index of 21 million passages does. Nothing
is computed: times are those of waiting. "Alone" is what the completions take by themselves.
"""

import argparse
import asyncio
import random
import threading
import time
from typing import Any

from llds.agent_tools import SearchTool
from llds.retrieval import Passage, Retriever

SETTINGS: list[dict[str, Any]] = [
    {},
    {"linger_s": 0.02},
    {"linger_s": 0.1},
    {"max_calls": 2},
    {"max_calls": 1},
    {"linger_s": 0.02, "max_calls": 2},
    {"linger_s": 0.02, "max_calls": 1},
]


class Scan(Retriever):
    """Takes the same time for any number of queries, and does one call at a time.

    Args:
        scan_s: That time, in seconds.
    """

    def __init__(self, scan_s: float) -> None:
        self._scan_s, self._is_scanning = scan_s, threading.Lock()

    def retrieve(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        """Wait."""
        with self._is_scanning:
            time.sleep(self._scan_s)
        return [[Passage(query, "", query)] * top_k for query in queries]

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"retriever": "scan"}


async def rollout(tool: SearchTool, episodes: int, searches: int) -> float:
    """Run the episodes; returns the seconds that they took."""
    numbers = random.Random(0)  # noqa: S311 (no secret)

    async def episode(name: int, waits: list[float]) -> None:
        for turn, wait in enumerate(waits):
            await asyncio.sleep(wait)
            await tool.run(f"query {name} {turn}")

    started = time.perf_counter()
    drawn = [[numbers.uniform(2, 6) for _ in range(searches)] for _ in range(episodes)]
    await asyncio.gather(*(episode(name, waits) for name, waits in enumerate(drawn)))
    return time.perf_counter() - started


def main() -> None:
    """Print one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=320)
    parser.add_argument("--searches", type=int, default=2)
    parser.add_argument("--scan-s", type=float, default=0.4)
    given = parser.parse_args()
    print("| search tool | calls | queries per call | seconds |\n| --- | --- | --- | --- |")
    for settings in SETTINGS:
        tool = SearchTool(**settings)
        tool.attach(Scan(given.scan_s))
        seconds = asyncio.run(rollout(tool, given.episodes, given.searches))
        count = tool.statistics
        print(
            f"| {settings or 'as it is'} | {count.calls} | {count.queries / count.calls:.1f} | {seconds:.1f} |",
            flush=True,
        )
    alone = SearchTool()
    alone.attach(Scan(0.0))
    print(f"| alone | | | {asyncio.run(rollout(alone, given.episodes, given.searches)):.1f} |")


if __name__ == "__main__":
    main()
