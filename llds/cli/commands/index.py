"""Build the Chroma index of a configuration before a training needs it, in a folder or on a Chroma server.

    python tools/build_index.py -c conf/quickstart.yaml
    python tools/build_index.py --retrieval.retriever.class_path llds.retrieval.ChromaRetriever \
        --retrieval.retriever.path runs/index --retrieval.retriever.corpus corpus.jsonl.gz
    python tools/build_index.py -c conf/base.yaml -c conf/retrieval/chroma_server.yaml \
        --retrieval.retriever.corpus corpus.parquet

Reads the same files and takes the same keys as ``llds fit``, which would build the same index at its first start. The
corpus is in Search-R1's format (``id``, ``contents``) or has the columns ``id``, ``title``, ``text``; jsonl, jsonl.gz
or parquet. All of it is checked first; then the memory and disk that the index will need are stated. A build that was
stopped or killed goes on where it was when the command is given again. ``--dry_run`` only checks and states.
``--overwrite`` deletes an index that is there.
"""

import logging
import sys

from llds.cli.config.retrieval import make_retriever, retrieval_parser
from llds.errors import LLDSError
from llds.retrieval import ChromaRetriever

_DESCRIPTION = "Build the Chroma index of a configuration."
_EPILOG = "Keys of the index: python tools/build_index.py --retrieval.retriever.help llds.retrieval.ChromaRetriever"


def main(args: list[str] | None = None) -> None:
    """Build, say what it needs and how it goes, then open the index once to verify it."""
    parser = retrieval_parser("python tools/build_index.py", _DESCRIPTION, _EPILOG)
    parser.add_argument("--overwrite", action="store_true", help="Delete an index that is there, and build it anew.")
    parser.add_argument("--dry_run", action="store_true", help="Check the corpus and state what its index will need.")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("llds").setLevel(logging.INFO)
    try:
        settings = parser.parse_args(args)
        retriever = make_retriever(parser, settings)
        if not isinstance(retriever, ChromaRetriever):
            sys.exit(f"Expected `retrieval.retriever` to be a ChromaRetriever, got {type(retriever).__name__}.")
        if settings.dry_run:
            retriever.plan(print)
            return
        if settings.overwrite:
            retriever.remove()
        if not retriever.build(print):
            print(f"There is {retriever.place.name} already; --overwrite builds it anew.")
        with retriever:
            for key, value in retriever.describe().items():
                print(f"{key}: {value}")
            print(f"fingerprint: {retriever.fingerprint}")
    except LLDSError as error:
        sys.exit(f"build_index: {error}")
    except KeyboardInterrupt:
        sys.exit("build_index: interrupted; give the same command to go on")


if __name__ == "__main__":
    main()
