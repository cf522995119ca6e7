"""How long clients of `llds serve-retriever` wait: many connections, each with one query after another.

Run from the repository root (half a minute, and the index of the quickstart's corpus once)::

    python tools/bench/retrieval/serve_load.py --clients 200 --seconds 10

The server is a process of its own (Chroma over the quickstart's corpus); the queries are the quickstart's questions,
one a request. Prints requests a second, and percentiles of the time that a request takes, over those that began after
the first second.
"""

import argparse
import asyncio
import itertools
import re
import subprocess
import sys
import time

import aiohttp
import numpy as np

from llds.files import read_rows

_WARM_S = 1.0


async def client(
    url: str, session: aiohttp.ClientSession, queries: list[str], begin: float, end: float, taken: list[float]
) -> None:
    """Ask until the end, and note when each request began and how long it took."""
    for query in itertools.cycle(queries):
        start = time.perf_counter()
        if start > end:
            return
        async with session.post(f"{url}/retrieve", json={"queries": [query], "topk": 3}) as reply:
            await reply.read()
            reply.raise_for_status()
        if start > begin:
            taken.append(time.perf_counter() - start)


async def load(url: str, clients: int, seconds: float, queries: list[str]) -> list[float]:
    """Times of all requests, in seconds."""
    taken: list[float] = []
    begin = time.perf_counter() + _WARM_S
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector) as session:
        asked = [queries[number:] + queries[:number] for number in np.linspace(0, len(queries) - 1, clients, dtype=int)]
        await asyncio.gather(*(client(url, session, one, begin, begin + seconds, taken) for one in asked))
    return taken


def main() -> None:
    """Serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    queries = [row.values["question"] for row in read_rows("llds:quickstart/train.jsonl", limit=2000)]
    command = [sys.executable, "-m", "llds", "serve-retriever", "-c", "llds:quickstart", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None  # noqa: S101
            url = next(found[0] for line in server.stdout if (found := re.search(r"http://[\d.:]+", line)))
            taken = asyncio.run(load(url, args.clients, args.seconds, queries))
        finally:
            server.terminate()
    p50, p90, p99 = np.percentile(taken, [50, 90, 99]) * 1000
    print(f"{args.clients} clients: {len(taken) / args.seconds:,.0f} requests a second")
    print(f"a request takes {p50:,.0f} ms (p50), {p90:,.0f} (p90), {p99:,.0f} (p99: {p99 / p50:.1f} x p50)")


if __name__ == "__main__":
    main()
