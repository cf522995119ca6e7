"""How a Chroma index grows: time, memory and disk of its build, speed and recall of its answers, folder and server.

    python tools/bench/retrieval/index_growth.py data/corpus/wiki40k.jsonl.gz        # 10k, 20k, 40k
    python tools/bench/retrieval/index_growth.py data/corpus/wiki40k.jsonl.gz --sizes 50000 100000 200000

Beyond the corpus given, passages are made of its own: the first half of one with the second half of another. Vectors
are those of the offline embedder (`WordLlamaEmbedder`, 256 numbers). Each build runs in a process of its own, as does
each measure of answers, so that peaks of memory are theirs. Queries are eight words out of passages.
Prints a table, and the exponent of time, memory and disk between each two sizes (1 is linear).
"""

import argparse
import json
import math
import resource
import socket
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from llds.errors import RetrievalError
from llds.retrieval import ChromaRetriever, ChromaServer
from llds.retrieval.base import Passage
from llds.retrieval.corpus import read_corpus

_MIB = 1 << 20
_TOP_K = 3
_QUERIES = 512
_SERVE = "import sys; from chromadb.cli.cli import app; sys.argv[0] = 'chroma'; app()"


def main() -> None:
    """Measure each size, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="Corpus of real passages.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 20_000, 40_000], help="Numbers of passages.")
    parser.add_argument("--folder", type=Path, default=None, help="Where to put corpora and indices.")
    parser.add_argument("--step", choices=("build", "folder", "server"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps({"build": build, "folder": ask_folder, "server": ask_server}[args.step](args.folder)))
        return
    rows = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            write_corpus(args.corpus, size, Path(folder) / "corpus.jsonl")
            found: dict[str, Any] = {"rows": size}
            for step in ("build", "folder", "server"):
                command = [sys.executable, __file__, str(args.corpus), "--step", step, "--folder", folder]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found |= json.loads(done.stdout.splitlines()[-1])
            rows.append(found)
            print(json.dumps(found), flush=True)
    for key in rows[0]:
        print(
            f"{key:28}" + "".join(f"{row[key]:>12,.3g}" if row[key] < 1_000 else f"{row[key]:>12,.0f}" for row in rows)
        )
    for key in ("build_cpu_s", "build_s", "build_peak_mib", "disk_mib"):
        slopes = [math.log(b[key] / a[key]) / math.log(b["rows"] / a["rows"]) for a, b in pairwise(rows)]
        print(f"exponent of {key:16}" + " " * 12 + "".join(f"{slope:>12.2f}" for slope in slopes))


def write_corpus(source: Path, size: int, target: Path) -> None:
    """Write as many passages: the real ones first, then halves of two of them."""
    real = list(read_corpus(source))
    draw = np.random.default_rng(0)
    with target.open("w", encoding="utf-8") as file:
        for number in range(size):
            passage = real[number % len(real)]
            if number >= len(real):
                other = real[draw.integers(len(real))]
                text = f"{_half(passage.text, 0)} {_half(other.text, 1)}"
                passage = Passage(f"{number}", f"{passage.title} {number}", text)
            row = {"id": f"{number}", "title": passage.title, "text": passage.text}
            file.write(json.dumps(row) + "\n")


def build(folder: Path) -> dict[str, float]:
    """Build the index; the peak of memory is that of this process."""
    retriever = _retriever(folder)
    start = time.perf_counter()
    said: list[str] = []
    retriever.build(said.append)
    wall = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    size = retriever.plan(lambda line: None).size(is_exact=False)
    disk = sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file())
    return {
        "build_s": wall,
        "build_cpu_s": usage.ru_utime + usage.ru_stime,
        "build_peak_mib": usage.ru_maxrss / 1024,
        "build_foretold_mib": size.build_memory / _MIB,
        "disk_mib": disk / _MIB,
        "disk_foretold_mib": size.disk / _MIB,
    }


def ask_folder(folder: Path) -> dict[str, float]:
    """Speed of HNSW and exact search in this process, and how much of the exact answers HNSW finds."""
    queries = _queries(folder)
    found: dict[str, float] = {}
    with _retriever(folder, exact_up_to=0) as hnsw:
        found |= _speeds(hnsw, queries, "hnsw")
        found["hnsw_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        approximate = _ids(hnsw, queries)
    with _retriever(folder, exact_up_to=10**9) as exact:
        found |= _speeds(exact, queries, "exact")
        found["both_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        right = _ids(exact, queries)
    shared = [len(set(a) & set(b)) / _TOP_K for a, b in zip(approximate, right, strict=True)]
    return {**found, "hnsw_recall_at_3": float(np.mean(shared))}


def ask_server(folder: Path) -> dict[str, float]:
    """Speed of HNSW behind a Chroma server that serves the same folder, and the server's memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = ["--path", str(folder / "index"), "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-c", _SERVE, "run", *address]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        retriever = _retriever(folder, server=ChromaServer(f"http://127.0.0.1:{port}"), path=None, exact_up_to=0)
        for _ in range(120):
            try:
                retriever.open()
                break
            except RetrievalError:
                time.sleep(0.5)
        found = _speeds(retriever, _queries(folder), "server")
        status = dict(
            line.split(":") for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if ":" in line
        )
        retriever.close()
        return {**found, "server_peak_mib": int(status["VmHWM"].split()[0]) / 1024}
    finally:
        server.kill()
        server.wait()


def _retriever(folder: Path, **settings: Any) -> ChromaRetriever:
    place = {"path": str(folder / "index"), "corpus": str(folder / "corpus.jsonl")}
    return ChromaRetriever(**{**place, **settings})


def _speeds(retriever: ChromaRetriever, queries: list[str], name: str) -> dict[str, float]:
    """Queries a second, one at a time and 64 together, embedding and texts included."""
    retriever.retrieve(queries[:8], _TOP_K)
    alone = queries[:100]
    start = time.perf_counter()
    for query in alone:
        retriever.retrieve([query], _TOP_K)
    one = len(alone) / (time.perf_counter() - start)
    start = time.perf_counter()
    for first in range(0, len(queries), 64):
        retriever.retrieve(queries[first : first + 64], _TOP_K)
    return {f"{name}_alone_per_s": one, f"{name}_by_64_per_s": len(queries) / (time.perf_counter() - start)}


def _ids(retriever: ChromaRetriever, queries: list[str]) -> list[list[str]]:
    return [[passage.document_id for passage in row] for row in retriever.retrieve(queries, _TOP_K)]


def _queries(folder: Path) -> list[str]:
    """Eight words out of passages drawn at random; one passage in memory at a time."""
    corpus = folder / "corpus.jsonl"
    with corpus.open(encoding="utf-8") as lines:
        rows = sum(1 for _ in lines)
    draw = np.random.default_rng(1)
    chosen = set(draw.choice(rows, size=_QUERIES, replace=False).tolist())
    queries = []
    with corpus.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number in chosen:
                words = json.loads(line)["text"].split()
                start = int(draw.integers(max(1, len(words) - 8)))
                queries.append(" ".join(words[start : start + 8]))
    return queries


def _half(text: str, which: int) -> str:
    words = text.split()
    middle = len(words) // 2
    return " ".join(words[middle:] if which else words[:middle])


if __name__ == "__main__":
    main()
