"""Folders of models: what does not load is one sentence, and what they bring to be run is not run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llds.errors import ConfigurationError, DataError
from llds.files import errors_of_folder
from llds.modules.policy.partitioned_loading import WeightFiles
from llds.modules.policy.policy import Policy
from llds.modules.policy.tokenizer import load_tokenizer
from llds.retrieval import TransformerEmbedder

LOADERS: dict[str, Callable[[str], Any]] = {
    "tokenizer": load_tokenizer,
    "policy": Policy,
    "encoder": lambda folder: TransformerEmbedder(folder).embed(["a"]),
}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose configuration names classes in a file of its own, as models with code of their own have it."""
    folder = tmp_path / "model"
    folder.mkdir()
    auto_map = {name: f"own.{name}" for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM")}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    tokenizer = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.AutoTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    return folder


@pytest.mark.parametrize("name", LOADERS)
def test_code_that_a_model_brings_is_neither_run_nor_asked_about(
    name: str, hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises(ConfigurationError, match=r"which brings code of its own, and llds runs none\. ") as refusal:
        LOADERS[name](str(hostile))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_folder_is_one_sentence(name: str, tmp_path: Path) -> None:
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / file).write_text("{\n")
    with pytest.raises(ConfigurationError, match="which does not load: ") as refusal:
        LOADERS[name](str(tmp_path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_damaged_index_of_weights_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ConfigurationError, match="which does not load: "):
        WeightFiles(tmp_path)


def test_an_error_of_llds_passes_as_it_is() -> None:
    with pytest.raises(DataError, match="mine"), errors_of_folder("Expected", Path(), ""):
        raise DataError("mine")
