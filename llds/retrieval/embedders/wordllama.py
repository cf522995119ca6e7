"""The offline default embedder: a table of token vectors that a package on PyPI ships.

The only file that touches the ``wordllama`` package, and only its data files: vectors are pooled here, because the
package's own loader looks for the files online and its import reconfigures the root logger.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llds.errors import ConfigurationError
from llds.retrieval.embedders.base import Embedder, Vectors, unit_rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WEIGHTS = Path("weights/l2_supercat_256.safetensors")
_TOKENIZER = Path("tokenizers/l2_supercat_tokenizer_config.json")
_BATCH_SIZE = 256


@dataclass(frozen=True)
class _TokenTable:
    tokenizer: "Tokenizer"
    vectors: Vectors  # [vocabulary, 256]
    fingerprint: str


class WordLlamaEmbedder(Embedder):
    """Mean of static token vectors (WordLlama ``l2_supercat``, 256 dimensions), scaled to length 1.

    Runs without torch, GPU or network: thousands of texts per second on one core. The vectors are those that
    ``WordLlamaInference.embed(texts, norm=True)`` gives, bit for bit.

    Note:
        The table derives from the token embeddings of Llama 2 (trained further by the WordLlama project), so the
        Llama 2 licence may bear on what you do with it. It is a small static model: on HotpotQA it finds 0.59 of the
        gold titles in its top 3 where MiniLM-L6 finds 0.70.

    Raises:
        ConfigurationError: At first use, where the package ``wordllama`` or its files are missing.
    """

    @property
    def dimension(self) -> int:
        """256."""
        return int(self._table.vectors.shape[1])

    @property
    def fingerprint(self) -> str:
        """Name, pooling and a hash of the table and tokenizer files."""
        return self._table.fingerprint

    def embed(self, texts: list[str]) -> Vectors:
        """Return one unit vector per text ``[n, 256]``; a text without tokens gives zeros."""
        table = self._table
        means = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), _BATCH_SIZE):
            encodings = table.tokenizer.encode_batch_fast(texts[start : start + _BATCH_SIZE], add_special_tokens=False)
            for row, encoding in enumerate(encodings, start=start):
                if encoding.ids:
                    means[row] = table.vectors[encoding.ids].mean(axis=0)
        return unit_rows(means)

    @cached_property
    def _table(self) -> _TokenTable:
        # Imported here: a run with another embedder does not pay for them at start-up.
        from safetensors.numpy import load
        from tokenizers import Tokenizer

        folder = _package_folder()
        weights, tokenizer = (folder / _WEIGHTS).read_bytes(), (folder / _TOKENIZER).read_bytes()
        return _TokenTable(
            tokenizer=Tokenizer.from_buffer(tokenizer),
            vectors=load(weights)["embedding.weight"].astype(np.float32),
            fingerprint=f"wordllama-l2_supercat-256/mean/{hashlib.sha256(weights + tokenizer).hexdigest()[:16]}",
        )


def _package_folder() -> Path:
    spec = find_spec("wordllama")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or not (folder / _WEIGHTS).is_file() or not (folder / _TOKENIZER).is_file():
        raise ConfigurationError(
            f"Expected the package wordllama 0.4.0.post1 with its files {_WEIGHTS} and {_TOKENIZER}, got "
            f"{folder or 'no such package'}. Run `pip install wordllama==0.4.0.post1` or configure another embedder."
        )
    return folder
