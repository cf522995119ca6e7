"""Load on ``llds serve-retriever``'s application: many clients at a time, half of them rude. Every answer is right."""

import json
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from llds.errors import RetrievalError
from llds.files import read_rows
from llds.paths import resolve_path
from llds.retrieval import BM25Retriever, HTTPRetriever
from llds.retrieval.server import retrieval_app, serving
from tools.bench.retrieval.retrieval_faults import CORPUS
from tools.campaign.table import Outcome

CLIENTS = 32
REQUESTS = 10
"""Of each client in an outcome."""


def tries(draw: random.Random, folder: Path) -> Iterator[Outcome]:
    """Rounds of requests, for ever, beside connections that are half open, send garbage, or send too slowly."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    words = [" ".join(str(row.values["contents"]).split())[:200] for row in read_rows(resolve_path(CORPUS))]
    with ExitStack() as stack:
        index = stack.enter_context(BM25Retriever(str(folder / "index"), CORPUS))
        url = stack.enter_context(serving(retrieval_app(index)))
        retriever = stack.enter_context(HTTPRetriever(url, timeout_s=30, max_retries=0))
        expected = {word: [one.document_id for one in found] for word, found in zip(words, index.retrieve(words, 2))}  # noqa: B905
        address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        while True:
            rude = threading.Thread(target=_be_rude, args=(address, draw.randrange(1000)), daemon=True)
            rude.start()
            asked = [draw.sample(words, draw.randint(1, 4)) for _ in range(CLIENTS * REQUESTS)]
            with ThreadPoolExecutor(CLIENTS) as clients:
                notes = [note for note in clients.map(lambda one: _ask(retriever, one, expected), asked) if note]
            rude.join()
            yield Outcome(f"{CLIENTS} clients beside rude ones", notes[0] if notes else "", len(asked), len(notes))


def _ask(retriever: HTTPRetriever, queries: list[str], expected: dict[str, list[str]]) -> str:
    try:
        found = retriever.retrieve(queries, 2)
    except RetrievalError as error:
        return f"no answer: {error}"
    answers = [[one.document_id for one in row] for row in found]
    return "" if answers == [expected[query] for query in queries] else f"a wrong answer to {queries}"


def _be_rude(address: tuple[str, int], seed: int) -> None:
    """Open connections that end in the middle, say nothing, or say nonsense."""
    draw = random.Random(seed)  # noqa: S311
    good = json.dumps({"queries": ["x"], "topk": 2}).encode()
    head = f"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: {len(good)}\r\n\r\n".encode()
    said = [b"", head, head + good[:5], b"\x00" * 1000, b"GET / HTTP/9.9\r\n\r\n", head.replace(b"POST", b"x" * 9000)]
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(socket.create_connection(address, timeout=5))
            connection.sendall(draw.choice(said))
            time.sleep(0.01)
