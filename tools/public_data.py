"""Fetch the public files that documentation and examples name, into a folder laid out as they expect it.

    python tools/public_data.py data          # 30 MB from GitHub; then --data_root data

Questions: R1-Searcher (MIT), DeepResearcher (Apache-2.0), HippoRAG (MIT). The corpus is made of HippoRAG's three:
passages of Wikipedia (CC BY-SA) that hold what the questions of HotpotQA, 2WikiMultihopQA and MuSiQue ask for. It is of
the kind of the 40,634 passages that figures in docs/ were measured on, and has their file's name, as no one publishes
those as one file: figures come out near, not equal. Files that are there are left as they are.
"""

import argparse
import gzip
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

SERVER = "https://raw.githubusercontent.com"
R1_SEARCHER = "RUCAIBox/R1-Searcher/631167cbb3c2464f805730e3e364a690f5b136d4/data"
DEEP_RESEARCHER = "GAIR-NLP/DeepResearcher/c93be8fd8637c1ac4a438ce730d118afd308f832/data"
HIPPORAG = "OSU-NLP-Group/HippoRAG/c617143f01477243992a63b2e2151cc003dd3b21/reproduce/dataset"
HIPPORAG_LEGACY = "OSU-NLP-Group/HippoRAG/b144c46df14cabe5f5822d8caded4bec5f709461/data"
FILES = {
    "train/r1searcher_stage_2.jsonl": f"{R1_SEARCHER}/training_set/stage_2.jsonl",
    "questions/r1searcher_hotpotqa_500.jsonl": f"{R1_SEARCHER}/eval_set/hotpotqa_500.jsonl",
    "questions/r1searcher_2wiki_500.jsonl": f"{R1_SEARCHER}/eval_set/2wiki_500.jsonl",
    "questions/r1searcher_musique_500.jsonl": f"{R1_SEARCHER}/eval_set/musique_500.jsonl",
    "questions/r1searcher_bamboogle.jsonl": f"{R1_SEARCHER}/eval_set/bamboogle.jsonl",
    "questions/deepresearcher_test.parquet": f"{DEEP_RESEARCHER}/test.parquet",
    "questions/hipporag_hotpotqa_train.json": f"{HIPPORAG_LEGACY}/hotpotqa_train.json",
    "questions/hipporag_hotpotqa_train_corpus.json": f"{HIPPORAG_LEGACY}/hotpotqa_train_corpus.json",
}
CORPORA = [f"{HIPPORAG}/{name}_corpus.json" for name in ("hotpotqa", "2wikimultihopqa", "musique")]
CORPUS = "corpus/wiki40k.jsonl.gz"


def main() -> None:
    """Fetch what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where the files go.")
    parser.add_argument("--server", default=SERVER, help="Where they come from, or a mirror of it.")
    options = parser.parse_args()
    for name, source in FILES.items():
        path = options.folder / name
        if not path.exists():
            write(path, fetch(f"{options.server}/{source}"))
    if not (options.folder / CORPUS).exists():
        write(options.folder / CORPUS, corpus([fetch(f"{options.server}/{source}") for source in CORPORA]))


def fetch(url: str) -> bytes:
    """The content of a file."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (http or https, of this file or the user)
            return bytes(answer.read())
    except OSError as error:
        sys.exit(f"Expected to fetch {url}, got: {error}. Check the connection, or name a mirror with --server.")


def corpus(files: list[bytes]) -> bytes:
    """Passages with a title and a text as one corpus in Search-R1's format, each once."""
    passages = {passage: None for file in files for passage in titles_and_texts(json.loads(file))}
    rows = [{"id": str(number), "contents": f'"{title}"\n{text}'} for number, (title, text) in enumerate(passages)]
    print(f"{len(rows):,} passages")
    return gzip.compress("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(), mtime=0)


def titles_and_texts(content: Any) -> list[tuple[str, str]]:
    """HippoRAG has lists of records, and records of titles with their sentences."""
    if isinstance(content, dict):
        return [(title, "".join(sentences)) for title, sentences in content.items()]
    return [(one["title"], one["text"]) for one in content]


def write(path: Path, content: bytes) -> None:
    """Write a file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
    print(f"{path} ({len(content) / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
