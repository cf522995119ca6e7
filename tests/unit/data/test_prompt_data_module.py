"""The data module: stages, sources, refusals, and the same from a configuration file."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jsonargparse
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from transformers import PreTrainedTokenizerFast

from llds.agent_tools import AgentTool, CalculatorTool
from llds.batches import RolloutBatch
from llds.data import DataSource, PromptDataModule, PromptTemplate
from llds.errors import ConfigurationError, DataError
from llds.rollout import TagProtocol


def row(number: int, **others: Any) -> dict[str, Any]:
    return {"question": f"Question {number}?", "golden_answers": ["Oslo"], **others}


@pytest.fixture
def path(write_jsonl: Callable[..., str]) -> str:
    return write_jsonl(*[row(number) for number in range(5)])


def set_up(data: PromptDataModule, tokenizer: PreTrainedTokenizerFast, stage: str = "fit") -> PromptDataModule:
    data.tokenizer = tokenizer
    data.setup(stage)
    return data


def ids(batches: Any) -> list[list[str]]:
    return [[prompt.prompt_id for prompt in batch.prompts] for batch in batches]


def test_training_batches_are_full_and_shuffled_by_the_seed(path: str, tokenizer: PreTrainedTokenizerFast) -> None:
    def batches(seed: int, **settings: Any) -> list[list[str]]:
        return ids(
            set_up(PromptDataModule(train=path, batch_size=2, seed=seed, **settings), tokenizer).train_dataloader()
        )

    assert [len(batch) for batch in batches(0)] == [2, 2, 2]  # one pass over 5 prompts, filled up from the next
    assert batches(0) == batches(0) != batches(1)
    assert batches(0, shuffle=False) == [["1", "2"], ["3", "4"], ["5", "1"]]
    assert len(batches(0, iterations=7)) == 7


def test_evaluation_takes_every_prompt_once_in_file_order(path: str, tokenizer: PreTrainedTokenizerFast) -> None:
    data = PromptDataModule(train=path, validation=path, test=path, predict=path, eval_batch_size=3, iterations=9)
    for stage, loader in (
        ("validate", data.val_dataloader),
        ("test", data.test_dataloader),
        ("predict", data.predict_dataloader),
    ):
        set_up(data, tokenizer, stage)
        assert ids(loader()) == [["1", "2", "3"], ["4", "5"]]


def test_prompts_are_encoded_by_the_template(path: str, tokenizer: PreTrainedTokenizerFast) -> None:
    data = set_up(PromptDataModule(train=path, template=PromptTemplate("Q: {question}")), tokenizer)
    prompts = [prompt for batch in data.train_dataloader() for prompt in batch.prompts]
    assert {tokenizer.decode(list(p.prompt_ids)) for p in prompts} == {f"<s>Q: Question {n}?" for n in range(5)}


def test_several_files_are_read_in_order_with_their_own_columns(
    path: str, write_jsonl: Callable[..., str], tokenizer: PreTrainedTokenizerFast
) -> None:
    other = write_jsonl({"q": "Capital?", "answer": "Oslo"}, name="other.jsonl")
    sources: list[str | DataSource] = [
        DataSource(path, limit=1),
        DataSource(other, question_field="q", answer_field="answer"),
    ]
    data = set_up(PromptDataModule(train=path, validation=sources), tokenizer)
    assert [(prompt.data_source, prompt.question) for prompt in data.prompts["validation"]] == [
        ("questions", "Question 0?"),
        ("other", "Capital?"),
    ]


def test_training_needs_no_validation_data(path: str, tokenizer: PreTrainedTokenizerFast) -> None:
    assert set_up(PromptDataModule(train=path), tokenizer).val_dataloader() == []


@pytest.mark.parametrize(("stage", "name"), [("fit", "train"), ("validate", "validation"), ("test", "test")])
def test_a_stage_without_data_names_its_key(tokenizer: PreTrainedTokenizerFast, stage: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Expected `data.{name}` .*`llds {stage}`"):
        set_up(PromptDataModule(), tokenizer, stage)
    with pytest.raises(ConfigurationError, match=f"Expected `data.{name}`"):
        set_up(PromptDataModule(train=[], validation=[], test=[]), tokenizer, stage)


def test_a_prompt_over_its_limit_is_named_with_file_row_and_key(
    write_jsonl: Callable[..., str], tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write_jsonl(row(1), row(2, question="word " * 50))
    template = PromptTemplate("{question}")
    with pytest.raises(DataError, match=r"at most 60 tokens, got \d+ at .*jsonl:2. Raise `data.max_prompt_tokens`"):
        set_up(PromptDataModule(train=path, template=template, max_prompt_tokens=60), tokenizer)
    data = set_up(PromptDataModule(train=path, template=template), tokenizer)
    longest = len(template.encode(data.prompts["train"][1], tokenizer).prompt_ids)
    set_up(PromptDataModule(train=path, template=template, max_prompt_tokens=longest), tokenizer)
    with pytest.raises(DataError, match=f"at most {longest - 1} tokens, got {longest} at"):
        set_up(PromptDataModule(train=path, template=template, max_prompt_tokens=longest - 1), tokenizer)


def test_all_bad_files_of_a_stage_are_named_at_once(
    path: str, write_jsonl: Callable[..., str], tokenizer: PreTrainedTokenizerFast
) -> None:
    bad = write_jsonl(row(1), "oh", name="bad.jsonl")
    data = PromptDataModule(train=[path, "nowhere.jsonl"], validation=["gone.jsonl", bad])
    with pytest.raises(DataError, match=r"^Expected data files that can be used, got 3 that cannot:\n") as caught:
        set_up(data, tokenizer)
    lines = str(caught.value).splitlines()[1:]
    assert [name in line for name, line in zip(("nowhere.jsonl", "gone.jsonl", f"{bad}:2"), lines, strict=True)] == [
        True
    ] * 3


def test_all_prompts_over_the_limit_are_named_at_once_or_skipped(
    write_jsonl: Callable[..., str], tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write_jsonl(row(1, question="word " * 50), row(2), row(3, question="word " * 60))
    settings: dict[str, Any] = {"template": PromptTemplate("{question}"), "max_prompt_tokens": 60}
    with pytest.raises(DataError, match=r"got 2 that cannot:(?s:.*)jsonl:1\.(?s:.*)jsonl:3\."):
        set_up(PromptDataModule(train=path, **settings), tokenizer)
    data = set_up(PromptDataModule(train=DataSource(path, on_bad_row="skip"), **settings), tokenizer)
    assert [prompt.prompt_id for prompt in data.prompts["train"]] == ["2"]
    assert data.describe()["train"][0]["skipped_rows"] == 2


def test_an_id_that_comes_twice_is_refused_with_both_rows(
    write_jsonl: Callable[..., str], tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write_jsonl(row(0, id="a"), row(1, id="b"), row(2, id="a"))
    with pytest.raises(DataError, match=r"'questions', got 'a' at .*jsonl:1 and at .*jsonl:3"):
        set_up(PromptDataModule(train=path), tokenizer)
    with pytest.raises(DataError, match="unique within data source"):
        set_up(PromptDataModule(train=[DataSource(path, limit=2), DataSource(path, limit=2)]), tokenizer)
    twice: list[str | DataSource] = [DataSource(path, limit=2), DataSource(path, limit=2, name="again")]
    assert len(set_up(PromptDataModule(train=twice), tokenizer).prompts["train"]) == 4


def test_ids_may_repeat_across_data_sources(
    write_jsonl: Callable[..., str], tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write_jsonl(row(0, id=1, data_source="nq"), row(1, id=1, data_source="hotpotqa"))
    assert len(set_up(PromptDataModule(train=path), tokenizer).prompts["train"]) == 2


@pytest.mark.parametrize("name", ["batch_size", "iterations", "eval_batch_size", "max_prompt_tokens"])
def test_sizes_below_one_are_refused_in_the_constructor(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"`data.{name}` to be at least 1, got 0"):
        PromptDataModule(**cast(dict[str, Any], {name: 0}))


def test_a_data_module_without_tokenizer_and_trainer_says_so(path: str) -> None:
    with pytest.raises(ConfigurationError, match="Expected a tokenizer"):
        PromptDataModule(train=path).setup("fit")


def test_sources_with_weights_are_mixed_in_training(
    path: str, write_jsonl: Callable[..., str], tokenizer: PreTrainedTokenizerFast
) -> None:
    other = write_jsonl(*[row(number) for number in range(15)], name="other.jsonl")
    sources: list[str | DataSource] = [DataSource(path, weight=3), DataSource(other, weight=1)]
    data = set_up(PromptDataModule(train=sources, batch_size=20), tokenizer)
    (batch,) = data.train_dataloader()
    assert Counter(prompt.data_source for prompt in batch.prompts) == {"questions": 15, "other": 5}
    whole = set_up(PromptDataModule(train=[path, other], batch_size=20), tokenizer)
    assert Counter(p.data_source for p in next(iter(whole.train_dataloader())).prompts) == {"questions": 5, "other": 15}


def test_a_mixture_resumes_with_the_next_prompt_and_refuses_other_weights(
    path: str, write_jsonl: Callable[..., str], tokenizer: PreTrainedTokenizerFast
) -> None:
    other = write_jsonl(*[row(number) for number in range(15)], name="other.jsonl")

    def build(first: float) -> PromptDataModule:
        sources: list[str | DataSource] = [DataSource(path, weight=first), DataSource(other, weight=1)]
        return set_up(PromptDataModule(train=sources, batch_size=6, iterations=8), tokenizer)

    whole = ids(build(3).train_dataloader())
    data = build(3)
    batches = iter(data.train_dataloader())
    done = [next(batches) for _ in range(5)]  # into the second pass over 20 prompts
    resumed = build(3)
    resumed.load_state_dict(data.state_dict())
    assert ids(done) + ids(resumed.train_dataloader())[:3] == whole
    other_weights = build(2)
    other_weights.load_state_dict(data.state_dict())
    with pytest.raises(ConfigurationError, match="same weights as the checkpoint"):
        other_weights.train_dataloader()


def test_weights_are_for_all_sources_of_the_training_prompts_and_for_these_alone(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"`data.train` to have a `weight`, or none, got 1 of 2"):
        PromptDataModule(train=[path, DataSource(path, weight=1)])
    with pytest.raises(ConfigurationError, match=r"no `weight` in `data.test`, got 2"):
        PromptDataModule(test=DataSource(path, weight=2))


def test_prompts_over_the_limit_are_skipped_where_malformed_rows_are(
    write_jsonl: Callable[..., str], tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_jsonl(row(1), "oh", row(2, question="word " * 50))
    data = PromptDataModule(
        train=DataSource(path, on_bad_row="skip"), template=PromptTemplate("{question}"), max_prompt_tokens=60
    )
    with caplog.at_level("INFO"):
        set_up(data, tokenizer)
    assert [prompt.question for prompt in data.prompts["train"]] == ["Question 1?"]
    assert [record.message for record in caplog.records if "skipped" in record.message] == [
        f"`data.train`: {path}: skipped 2 malformed rows; the first: {data.questions['train'][0].bad_rows.first}"
    ]
    data.max_prompt_tokens = 1
    with pytest.raises(DataError, match="at least one prompt of at most 1 tokens"):
        set_up(data, tokenizer)


def test_several_prompts_over_the_limit_are_named_together_with_a_way_to_leave_them_out(
    write_jsonl: Callable[..., str], tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write_jsonl(row(1), row(2, question="word " * 50), row(3, question="word " * 60))
    data = PromptDataModule(train=path, template=PromptTemplate("{question}"), max_prompt_tokens=60)
    with pytest.raises(DataError, match=r"(?s)got 2 that cannot:.*:2\. Raise.*:3\. Raise.*`on_bad_row: skip`"):
        set_up(data, tokenizer)


def test_the_description_has_a_record_for_each_source_of_each_stage(
    path: str, write_jsonl: Callable[..., str], tokenizer: PreTrainedTokenizerFast
) -> None:
    other = write_jsonl(row(0), row(1, question="word " * 500), name="other.jsonl")
    sources: list[str | DataSource] = [path, DataSource(other, on_bad_row="skip")]
    data = PromptDataModule(train=path, test=sources, max_prompt_tokens=800)
    assert data.describe() == {}
    records = set_up(data, tokenizer, "test").describe()
    assert records.keys() == {"test"}
    assert [(record["path"], record["questions"], record["skipped_rows"]) for record in records["test"]] == [
        (path, 5, 0),
        (other, 1, 1),
    ]


class _Witness(LightningModule):
    """Owns tokenizer, protocol and tools, and keeps the batches it is tested with."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.protocol = TagProtocol()
        self.agent_tools: list[AgentTool] = []
        self.batches: list[RolloutBatch] = []

    def test_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        self.batches.append(batch)


@pytest.mark.filterwarnings("ignore")
def test_the_tokenizer_of_the_module_is_used_under_a_trainer_and_batches_come_through_bf16_untouched(
    path: str, chat_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    data = PromptDataModule(test=path, eval_batch_size=2, template=PromptTemplate("{question}", chat=True))
    module = _Witness(chat_tokenizer)
    Trainer(accelerator="cpu", precision="bf16-true", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
            ).test(module, data, verbose=False)  # fmt: skip
    assert all(type(batch) is RolloutBatch for batch in module.batches)
    prompts = [prompt for batch in module.batches for prompt in batch.prompts]
    assert prompts == data.template.encode_batch(data.prompts["test"], chat_tokenizer)
    assert str(chat_tokenizer.decode(list(prompts[0].prompt_ids))).startswith("<|im_start|>user\nQuestion 0?")
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("text", "is_told"), [("{question}", True), ("{tools}\n{question}", False), ("Use calculate. {question}", False)]
)
def test_a_prompt_that_names_no_tool_is_said(
    path: str, chat_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture, text: str, is_told: bool
) -> None:
    trainer, module = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False), _Witness(chat_tokenizer)
    module.agent_tools = [CalculatorTool()]
    trainer.strategy.connect(module)
    data = PromptDataModule(train=path, template=PromptTemplate(text))
    data.trainer = trainer
    with caplog.at_level("INFO"):
        set_up(data, chat_tokenizer)
    assert ("the prompt does not name calculate" in caplog.text) == is_told


YAML = """
data:
  train: llds:quickstart/train.jsonl
  validation:
    path: llds:quickstart/validation.jsonl
    limit: 5
  test:
    - llds:quickstart/test.jsonl
    - path: other.jsonl
      name: other
    - path: merged.parquet
      data_sources: {tq: triviaqa}
      answer_field: [answer, answer_aliases]
      answers_in: corpus.jsonl
      on_bad_row: skip
  template:
    chat: true
"""


def parse(arguments: list[str], tmp_path: Path, text: str = YAML) -> PromptDataModule:
    (tmp_path / "config.yaml").write_text(text)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-c", action="config")
    parser.add_class_arguments(PromptDataModule, "data")
    config = parser.parse_args(["-c", str(tmp_path / "config.yaml"), *arguments])
    return parser.instantiate(config).data


def test_paths_sources_and_lists_of_both_come_from_yaml(tmp_path: Path) -> None:
    data = parse(["--data.batch_size=3", "--data.validation.limit=4"], tmp_path)
    assert data.sources["train"] == "llds:quickstart/train.jsonl"
    assert data.sources["validation"] == DataSource("llds:quickstart/validation.jsonl", limit=4)
    assert data.sources["test"] == [
        "llds:quickstart/test.jsonl",
        DataSource("other.jsonl", name="other"),
        DataSource(
            "merged.parquet",
            data_sources={"tq": "triviaqa"},
            answer_field=["answer", "answer_aliases"],
            answers_in="corpus.jsonl",
            on_bad_row="skip",
        ),
    ]
    assert (data.batch_size, data.template) == (3, PromptTemplate(chat=True))


def test_a_misspelled_key_in_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(jsonargparse.ArgumentError, match="limt"):
        parse([], tmp_path, YAML.replace("limit", "limt"))
    with pytest.raises(jsonargparse.ArgumentError, match="chta"):
        parse([], tmp_path, YAML.replace("chat", "chta"))
