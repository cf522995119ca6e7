"""The model card says what lies in the run's folder, of exactly the weights that it is about, and no more."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from llds.evaluation import new_record_folder, write_record
from llds.evaluation.model_card import CARD, GENERATED, Exported, make_model_card, renew_model_card, write_model_card
from tests.questions import question

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
THESE = Exported(30, "aa11")
CONDITIONS = {
    "created": {"time": "2026-01-02", "files": ["/home/me/secret-place/test.jsonl"]},
    "rollout": {"sampling": {"temperature": 0.0}, "limits": {"turns": 3}},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that collapsed, with a configuration and an evaluation of other weights."""
    folder = tmp_path / "agent"
    (folder / "policy").mkdir(parents=True)
    settings = yaml.safe_load((ROOT / "conf/quickstart.yaml").read_text())
    settings["data"]["init_args"] |= {"train": "/home/me/secret-place/train.jsonl", "seed": 7}
    settings["retrieval"]["retriever"]["init_args"]["server"] = {"api_key": "sk-verysecret"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "csv").mkdir()
    log = gzip.decompress((ROOT / "tests/recordings/A_lam0_s0.csv.gz").read_bytes())
    (folder / "csv" / "metrics.csv").write_bytes(log)
    add_evaluation(folder, "bb22")
    return folder


def add_evaluation(run: Path, weights: str) -> None:
    card = CONDITIONS | {"stage": "test", "policy": {"weights_sha256": weights}}
    questions = [question("1", 1.0), question("2", 0.0), question("3", 1.0), question("4", 1.0)]
    write_record(new_record_folder(run, "test", "iteration-000030", NOW), card, questions)


def test_a_card_names_base_recipe_seeds_alarms_and_its_head_is_what_a_hub_reads(run: Path) -> None:
    text = make_model_card(run, "llds:quickstart/policy", THESE)
    head = ModelCard(text).data.to_dict()
    assert (head["license"], head["library_name"], head["llds"]["iteration"]) == ("apache-2.0", "transformers", 30)
    assert "base_model" not in head, "what no hub has is no link"
    for said in (
        "`llds:quickstart/policy`",
        "after 30 iterations",
        "| learning rate | 0.0002 |",
        "| LLDS: lambda | 0.2 |",
        "| agent tools | SearchTool |",
        "| seeds that took effect | 7 |",
        "No evaluation of exactly these weights",
        "judged from: ",
    ):
        assert said in text, said
    assert "secret" not in text, "neither folders of this machine nor keys"
    assert "train: train.jsonl" in text
    pinned = make_model_card(run, f"Org/Base@{'a' * 40}", THESE)
    assert ModelCard(pinned).data.base_model == "Org/Base"


def test_alarms_are_those_up_to_the_iteration_that_was_exported(run: Path) -> None:
    late, early = (
        make_model_card(run, "x", Exported(iteration, "aa11")).partition("Alarms: ")[2] for iteration in (None, 13)
    )
    assert late.startswith("iterations ")
    assert early.startswith("none. Iterations ")


def test_a_card_is_renewed_with_evaluations_of_its_weights_until_somebody_makes_it_theirs(run: Path) -> None:
    folder = run / "policy"
    assert not renew_model_card(folder, run)
    write_model_card(folder, run, "llds:quickstart/policy", THESE)
    add_evaluation(run, "aa11")
    assert renew_model_card(folder, run)
    text = (folder / CARD).read_text()
    assert "`llds test` on test.jsonl, temperature 0.0, at most 3 turns, 2026-01-02" in text
    assert "| this policy: EM | 0.750 |" in text
    [result] = ModelCard(text).data.eval_results or []
    assert (result.metric_name, result.metric_value) == ("EM", 0.75)
    own = text.replace(GENERATED, "Mine.")
    (folder / CARD).write_text(own)
    assert not renew_model_card(folder, run)
    assert (folder / CARD).read_text() == own


def test_a_folder_without_anything_gives_a_card_that_says_so(tmp_path: Path) -> None:
    text = make_model_card(tmp_path, "models/own", THESE)
    assert "no config.yaml" in text
    assert "no metrics, so nothing can be said" in text
    assert "its folder names none" in text
    base = tmp_path / "base"
    base.mkdir()
    (base / CARD).write_text("---\nlicense: mit\n---\n")
    assert ModelCard(make_model_card(tmp_path, str(base), THESE)).data.license == "mit"
