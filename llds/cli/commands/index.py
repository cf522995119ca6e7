"""``llds index``: the Chroma index of a configuration, built before a training needs it, in a folder or on a server.

Reads the same files and takes the same keys as ``llds fit``, which would build the same index at its first start.
"""

from collections.abc import Sequence

from llds.cli.config.retrieval import make_retriever, retrieval_parser
from llds.cli.plain import say
from llds.cli.surroundings import find_own_classes, tell_of_indices
from llds.errors import ConfigurationError
from llds.retrieval import ChromaRetriever

_DESCRIPTION = """\
Build the Chroma index of a corpus, in a folder or on a Chroma server, before a training needs it.

The corpus is in Search-R1's format (`id`, `contents`) or has the columns `id`, `title`, `text`; jsonl, jsonl.gz or
parquet. All of it is checked first; then the memory and disk that the index will need are stated. A build that was
stopped or killed goes on where it was when the command is given again."""
_EXAMPLES = """\
  llds index -c llds:quickstart
  llds index --retrieval.retriever.class_path llds.retrieval.ChromaRetriever \\
      --retrieval.retriever.path runs/index --retrieval.retriever.corpus corpus.jsonl.gz --dry_run"""


def index(args: Sequence[str]) -> None:
    """Build, say what it needs and how it goes, then open the index once to verify it.

    Args:
        args: Arguments after ``index``.

    Raises:
        ConfigurationError: A setting cannot work.
        RetrievalError: The index cannot be built or used.
    """
    parser = retrieval_parser("llds index", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("--dry_run", action="store_true", help="Check the corpus and state what its index will need.")
    parser.add_argument("--overwrite", action="store_true", help="Delete an index that is there, and build it anew.")
    find_own_classes()
    tell_of_indices()
    settings = parser.parse_args(list(args))
    retriever = make_retriever(parser, settings)
    if not isinstance(retriever, ChromaRetriever):
        raise ConfigurationError(
            f"Expected `retrieval.retriever` to be a ChromaRetriever, got {type(retriever).__name__}."
        )
    if settings.dry_run:
        retriever.plan(say)
        return
    try:
        _build(retriever, settings.overwrite)
    except KeyboardInterrupt:
        raise SystemExit("llds: interrupted; give the same command to go on") from None


def _build(retriever: ChromaRetriever, overwrite: bool) -> None:
    if overwrite:
        retriever.remove()
    if not retriever.build(say):
        say(f"There is {retriever.place.name} already; --overwrite builds it anew.")
    with retriever:
        for key, value in retriever.describe().items():
            say(f"{key}: {value}")
        say(f"fingerprint: {retriever.fingerprint}")
