"""Embedders: what they are named by, and functions as embedders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llds.errors import ConfigurationError, RetrievalError
from llds.retrieval import ChromaRetriever, FunctionEmbedder, WordLlamaEmbedder
from llds.retrieval.embedders import wordllama as wordllama_embedder

TEXTS = ["Paris is the capital of France.", "The yen is the currency of Japan.", "", "Mont Blanc"]


@pytest.mark.filterwarnings("error")
def test_vectors_are_float32_of_unit_length_and_an_empty_text_gives_zeros(embedder):
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (4, embedder.dimension) == (4, 256)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 1], atol=1e-6)


def test_no_text_gives_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, 256)


def test_a_vector_does_not_depend_on_the_texts_beside_it(embedder):
    together = embedder.embed(TEXTS * 200)  # more than one batch
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    np.testing.assert_array_equal(together, np.tile(alone, (200, 1)))


def test_vectors_equal_those_of_the_wordllama_package(embedder):
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
    from wordllama import WordLlamaInference

    folder = wordllama_embedder._package_folder()
    theirs = WordLlamaInference(
        load_file(folder / wordllama_embedder._WEIGHTS)["embedding.weight"],
        Tokenizer.from_file(str(folder / wordllama_embedder._TOKENIZER)),
    )
    texts = [TEXTS[0], TEXTS[1], TEXTS[3]]
    np.testing.assert_array_equal(embedder.embed(texts), theirs.embed(texts, norm=True))


def test_a_question_is_nearer_to_its_answer_than_to_other_facts(embedder):
    question = embedder.embed_queries(["Which city is the capital of France?"])
    scores = (embedder.embed_passages(TEXTS[:2]) @ question.T).ravel()
    assert scores[0] > scores[1] + 0.2


def test_odd_characters_do_not_give_nan(embedder):
    assert np.isfinite(embedder.embed(["\x00", "   ", "</s><s>", "🜁" * 50, "a" * 100_000])).all()


def test_the_fingerprint_names_the_weights_and_is_stable(embedder):
    assert embedder.fingerprint == WordLlamaEmbedder().fingerprint
    assert embedder.fingerprint.startswith("wordllama-l2_supercat-256/mean/")


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(wordllama_embedder, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install wordllama==0\.4\.0\.post1"):
        WordLlamaEmbedder().embed(["x"])


wordllama = WordLlamaEmbedder()


def doubled(texts: list[str]) -> Any:
    """Vectors of length 2, as lists."""
    return (2 * wordllama.embed(texts)).tolist()


def after(good_calls: int, then: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
    """A function that is good for some calls."""
    calls: list[int] = []

    def function(texts: list[str]) -> Any:
        calls.append(len(texts))
        return doubled(texts) if len(calls) <= good_calls else then(texts)

    return function


def test_vectors_are_scaled_and_batched() -> None:
    sizes: list[int] = []

    def noting(texts: list[str]) -> Any:
        sizes.append(len(texts))
        return doubled(texts)

    texts = ["Paris", "the yen", "a lake in Africa", "Lima", "Ottawa"]
    np.testing.assert_allclose(FunctionEmbedder(noting, batch_size=2).embed(texts), wordllama.embed(texts), atol=1e-6)
    assert sizes[1:] == [2, 2, 1]


def test_prefixes_stand_before_queries_and_passages() -> None:
    embedder = FunctionEmbedder(doubled, query_prefix="query: ", passage_prefix="passage: ")
    np.testing.assert_allclose(embedder.embed_queries(["Lima"]), wordllama.embed(["query: Lima"]), atol=1e-6)
    np.testing.assert_allclose(embedder.embed_passages(["Lima"]), wordllama.embed(["passage: Lima"]), atol=1e-6)


@pytest.mark.slow
def test_it_serves_a_collection(make_retriever: Callable[..., ChromaRetriever], tmp_path: Path) -> None:
    with make_retriever() as plain:
        expected = [p.document_id for p in plain.retrieve(["capital of France"], 3)[0]]
    with make_retriever(path=str(tmp_path / "other"), embedder=FunctionEmbedder(doubled)) as retriever:
        assert [p.document_id for p in retriever.retrieve(["capital of France"], 3)[0]] == expected


def test_the_fingerprint_tells_functions_and_prefixes_apart_and_not_their_lengths() -> None:
    fingerprint = FunctionEmbedder(doubled).fingerprint
    assert FunctionEmbedder(wordllama.embed).fingerprint == fingerprint
    assert FunctionEmbedder(lambda texts: np.roll(wordllama.embed(texts), 1)).fingerprint != fingerprint
    assert FunctionEmbedder(doubled, query_prefix="q").fingerprint != fingerprint


def crash(texts: list[str]) -> Any:
    """Raise."""
    raise ZeroDivisionError("oops")


NONSENSE: dict[str, Callable[[list[str]], Any]] = {
    "raises": crash,
    "nothing": lambda texts: None,
    "text": lambda texts: "vectors",
    "one number each": lambda texts: [1.0 for _ in texts],
    "too few": lambda texts: doubled(texts)[1:],
    "ragged": lambda texts: [[1.0] * (1 + number) for number in range(len(texts))] + [[1.0]],
    "NaN": lambda texts: np.full((len(texts), 256), np.nan),
}


@pytest.mark.parametrize("function", NONSENSE.values(), ids=NONSENSE.keys())
def test_a_function_that_gives_no_vectors_is_refused(function: Callable[[list[str]], Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"`embedder\.function`"):
        FunctionEmbedder(function).embed(["a", "b"])


@pytest.mark.parametrize("function", NONSENSE.values(), ids=NONSENSE.keys())
def test_a_function_that_stops_to_give_vectors_is_a_failure_of_retrieval(function: Callable[[list[str]], Any]) -> None:
    embedder = FunctionEmbedder(after(1, function))
    with pytest.raises(RetrievalError, match="embedding function"):
        embedder.embed(["a", "b"])


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="batch_size"):
        FunctionEmbedder(doubled, batch_size=0)
