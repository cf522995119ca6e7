"""The offline embedder, with its real table."""

import numpy as np
import pytest

from llds.errors import ConfigurationError
from llds.retrieval import WordLlamaEmbedder
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
