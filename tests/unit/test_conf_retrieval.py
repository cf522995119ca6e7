"""Every overlay of conf/retrieval works on a recipe, keeps its corpus and changes nothing but the retriever."""

from pathlib import Path
from typing import Any

import pytest

from llds.retrieval import FunctionEmbedder, FusionRetriever, MiniLMEmbedder, Retriever
from tests.unit.retrieval.embedders.test_transformer import needs_minilm
from tests.unit.test_conf import BASE, OVERRIDE, QUICKSTART, ROOT, alone, build, difference, resolved

OVERLAYS = sorted((ROOT / "conf" / "retrieval").glob("*.yaml"))
RETRIEVER = "retrieval.retriever"
CLASSES = {
    "bm25": "BM25Retriever",
    "chroma": "ChromaRetriever",
    "chroma_server": "ChromaRetriever",
    "e5": "ChromaRetriever",
    "http": "HTTPRetriever",
    "hybrid": "HybridRetriever",
    "minilm": "ChromaRetriever",
}


def marked(path: Path) -> Any:
    return pytest.param(path, marks=needs_minilm if path.stem == "minilm" else (), id=path.stem)


@pytest.fixture
def base() -> dict[str, Any]:
    """What the complete recipe says by itself: the one with the most settings that could be in the way."""
    return alone("-c", BASE, *OVERRIDE)


def test_there_is_an_overlay_for_every_kind_of_retrieval() -> None:
    assert {path.stem for path in OVERLAYS} == CLASSES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("overlay", [marked(path) for path in OVERLAYS])
def test_an_overlay_swaps_the_retriever_and_nothing_else(base: dict[str, Any], overlay: Path) -> None:
    cli = build("-c", BASE, "-c", overlay, *OVERRIDE)
    retriever = cli.config_init.retrieval.retriever
    assert isinstance(retriever, Retriever)
    assert type(retriever).__name__ == CLASSES[overlay.stem]
    after = resolved(cli)
    assert {key for key in difference(base, after) if not key.startswith(RETRIEVER)} == set()
    corpus = f"{RETRIEVER}.init_args.corpus"
    assert after.get(corpus, base[corpus]) == base[corpus]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_is_short_and_says_how_to_run_it(overlay: Path) -> None:
    lines = overlay.read_text().splitlines()
    assert len(lines) <= 20
    comments = [line for line in lines if line.startswith("#")]
    assert lines[: len(comments)] == comments
    assert any(line.startswith("# llds fit ") and f"-c llds:retrieval/{overlay.stem}" in line for line in comments)


@pytest.mark.slow
def test_retrievers_are_fused_by_name(tmp_path: Path) -> None:
    late = tmp_path / "late.yaml"
    late.write_text(
        "retrieval:\n  retriever:\n    class_path: llds.retrieval.FusionRetriever\n    init_args:\n      retrievers:\n"
        "        - {class_path: llds.retrieval.BM25Retriever, init_args: {path: a, corpus: c.jsonl}}\n"
        "        - {class_path: llds.retrieval.HTTPRetriever, init_args: {url: 'http://host'}}\n"
    )
    retriever = build("-c", QUICKSTART, "-c", late).config_init.retrieval.retriever
    assert isinstance(retriever, FusionRetriever)
    assert [type(one).__name__ for one in retriever.retrievers] == ["BM25Retriever", "HTTPRetriever"]


class Shouting:
    """An embedding function that has a setting."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, texts: list[str]) -> list[list[float]]:
        """Return vectors that know the length of a text."""
        return [[float(len(text) + 1)] * self.size for text in texts]


def lengths(texts: list[str]) -> list[list[float]]:
    """Return vectors that know the length of a text."""
    return Shouting(2)(texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "dimension"),
    [
        (f"{__name__}.lengths", 2),
        (f"{{class_path: {__name__}.Shouting, init_args: {{size: 5}}}}", 5),
    ],
    ids=["function", "object"],
)
def test_a_function_embeds_by_its_name(tmp_path: Path, function: str, dimension: int) -> None:
    late = tmp_path / "late.yaml"
    late.write_text(
        "retrieval:\n  retriever:\n    init_args:\n      embedder:\n"
        f"        class_path: llds.retrieval.FunctionEmbedder\n        init_args: {{function: {function}}}\n"
    )
    embedder = build("-c", QUICKSTART, "-c", late).config_init.retrieval.retriever.embedder
    assert isinstance(embedder, FunctionEmbedder)
    assert embedder.dimension == dimension


@pytest.mark.slow
@needs_minilm
def test_the_overlay_of_minilm_embeds_with_it() -> None:
    overlay = ROOT / "conf" / "retrieval" / "minilm.yaml"
    assert isinstance(build("-c", QUICKSTART, "-c", overlay).config_init.retrieval.retriever.embedder, MiniLMEmbedder)
