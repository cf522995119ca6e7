"""The command line before anything runs: a typo gets one sentence with the nearest right key, help can be read."""

import logging
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch import Tensor

from llds.callbacks import CollapseMonitor
from llds.cli import main
from llds.cli.config.errors import explain
from llds.cli.config.missing_package import missing_package
from llds.cli.config.parser import ConfigurationParser, errors_of_constructors
from llds.cli.training.command import STOPPED_BY_LADDER, SearchAgentCLI, build_cli
from llds.cli.training.parser import TrainingParser, with_class_of_help
from llds.cli.training.quiet import quiet
from llds.errors import ConfigurationError
from llds.losses import Loss, LossInputs, LossOutput

ROOT = Path(__file__).parents[3]
QUICKSTART = str(ROOT / "conf" / "quickstart.yaml")


class Unfinished(Loss):
    """A loss without a denominator."""

    def __call__(self, inputs: LossInputs, denominator: Tensor | None = None) -> LossOutput:
        """The term."""
        return LossOutput(inputs.log_probs.sum(), {})


@pytest.fixture(scope="module")
def parser() -> ConfigurationParser:
    """The parser of `llds fit`, caught before it is used: it takes longer to build than to use."""
    found: list[ConfigurationParser] = []

    def catch(cli: SearchAgentCLI, parser: ConfigurationParser, args: object) -> None:
        found.append(parser)
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchAgentCLI, "parse_arguments", catch)
        with pytest.raises(SystemExit):
            build_cli(["fit"])
    return found[0]


def refusal(parser: ConfigurationParser, *args: str) -> str:
    """What `llds fit` says of wrong arguments."""
    with pytest.raises(ConfigurationError) as caught:
        parser.parse_args(["fit", "-c", QUICKSTART, *args])
    message = str(caught.value)
    assert message.startswith("Expected ")
    assert "\n" not in message
    assert len(message) < 500
    return message


TYPOS_ON_THE_COMMAND_LINE = {
    "--rollout.group_sise 4": "Did you mean `rollout.group_size`?",
    "--rollout.group_sise=4": "Did you mean `rollout.group_size`?",
    "--modle.policy x": "Did you mean `model`?",
    "--model.polcy x": "Did you mean `model.policy`?",
    "--model.init_args.polcy x": "Did you mean `model.policy`?",
    "--model.optimization.learning_rat 1": "Did you mean `model.optimization.learning_rate`?",
    "--model.llds_penalty.coeficient 1": "Did you mean `model.llds_penalty.coefficient`?",
    "--model.llds_penalty.gate acton": "to be one of token, response, action, got acton. Did you mean `action`?",
    "--model llds.modules.SearchAgentModul": (
        "Expected `model` to name a class, got llds.modules.SearchAgentModul, which does not exist. "
        "Did you mean `llds.modules.SearchAgentModule`?"
    ),
    "--data.batch_sice 3": "Did you mean `data.batch_size`?",
    "--trainer.max_epoch 3": "Did you mean `trainer.max_epochs`?",
    "--trainer.precision 32-tru": "Did you mean `32-true`?",
    "--retrieval.retriever.pth x": "Did you mean `retrieval.retriever.path`?",
    "--rollout.group_size many": "Expected `rollout.group_size` to be an integer, got many.",
    "--rollout.group_size": "Expected a value after `--rollout.group_size`, got none.",
    "--model.llds_penalty.coefficient --rollout.group_size 3": "a value after `--model.llds_penalty.coefficient`, got",
    "--model.lr 1": "Did you mean `model.optimization.learning_rate`?",
    "--rollout.temperature 1": "`rollout.sampling.temperature` or `rollout.eval_sampling.temperature`?",
    '--rollout.sampling {"temp":1}': "Did you mean `rollout.sampling.temperature`?",
    "--rollout.sampling 3": "Expected keys and values for `rollout.sampling`, got 3.",
    "--rollout.help": "`llds fit --help` explains those of `rollout`.",
    "--rollout.qqqq 1": "eval_limits, eval_sampling, group_size,",
    "--seed 1": "Did you mean `seed_everything`?",
    "--model.kl_penalty 0.001": "a class with its settings or null, got 0.001. Write --model.kl_penalty.KEY VALUE,",
    "--model.advantages rloo": "Its overlay sets it: -c llds:objectives/advantages/rloo.",
    "--model.lora 16": "Write --model.lora '{rank: 16}'.",
    "-c somewhere/ablations/no_kl.yaml": "It ships with llds: -c llds:ablations/no_kl.",
    "llds:quickstart": "got `llds:quickstart`. Write -c llds:quickstart.",
    "-c": "Expected a value after `--config`, got none.",
    "stray": "Expected options that start with --, got `stray`.",
    "-c nope.yaml": "nope.yaml, got no such file.",
    "-c .": "got a folder or a device. Name a file.",
}


@pytest.mark.parametrize("args", TYPOS_ON_THE_COMMAND_LINE)
def test_a_typo_on_the_command_line_gets_the_nearest_right_key(args: str, parser: ConfigurationParser) -> None:
    assert TYPOS_ON_THE_COMMAND_LINE[args] in refusal(parser, *args.split(" "))


TYPOS_IN_A_FILE = {
    "modle: {}": "Did you mean `model`?",
    "sed_everything: 1": "Did you mean `seed_everything`?",
    "rollout: {limits: {action_token: 3}}": "Did you mean `rollout.limits.action_tokens`?",
    "model: {initargs: {policy: x}}": "Did you mean `init_args`?",
    "model: {init_args: {optimization: {learning_rat: 1}}}": "Did you mean `model.optimization.learning_rate`?",
    "model: {init_args: {llds_penalty: {init_args: {gate: acton}}}}": "Did you mean `action`?",
    "model: {init_args: {llds_penalty: {init_args: {answer_masking: {init_args: {shedule: paper}}}}}}": (
        "Did you mean `model.llds_penalty.answer_masking.schedule`?"
    ),
    "model: {init_args: {policy_loss: {class_path: llds.losses.GRPOLos}}}": "Did you mean `llds.losses.GRPOLoss`?",
    "model: {init_args: {policy_loss: {class_path: llds.loses.GRPOLoss}}}": "Did you mean `llds.losses`?",
    "model: {init_args: {policy_loss: GRPOLos}}": "to name a class, got GRPOLos.",
    "model: {init_args: {policy_loss: {class_path: llds.losses.Loss}}}": "a subclass of llds.losses.Loss",
    f"model: {{init_args: {{policy_loss: {{class_path: {__name__}.Unfinished}}}}}}": "to define `denominator`",
    "model: {init_args: {policy_loss: {class_path: llds.callbacks.TrajectoryLog}}}": "to be a Loss, got llds.callbacks",
    "model: {init_args: {agent_tools: [{class_path: llds.agent_tools.SearchTol}]}}": "llds.agent_tools.SearchTool`?",
    "trainer: {callbacks: [{class_path: llds.callbacks.ExportPolicy}, {class_path: llds.callbacks.TrajectoryLo}]}": (
        "Did you mean `llds.callbacks.TrajectoryLog`?"
    ),
    "trainer: {callbacks: [{class_path: llds.callbacks.TrajectoryLog, init_args: {every_n_iteration: 2}}]}": (
        "Did you mean `trainer.callbacks.every_n_iterations`?"
    ),
    "data: {init_args: {train: {path: x.jsonl, limt: 3}}}": "Did you mean `data.train.limit`?",
    "rollout: {group_size: many}": "to be an integer, got many.",
    "rollout: 3": "Expected keys and values below `rollout`, got 3",
    "rollout: {group_size: 3}\nrollout: {group_size: 5}": "overlay.yaml:2: found duplicate key rollout.",
    "rollout: [a, {": "Expected a YAML file, got an error at",
    "just a text": "Expected a key that llds knows, got `just a text`.",
    "- a list": "overlay.yaml, got a list.",
    "": "Expected keys and values in",
}


@pytest.mark.parametrize("text", TYPOS_IN_A_FILE)
def test_a_typo_in_a_file_gets_the_nearest_right_key_and_the_name_of_the_file(
    text: str, parser: ConfigurationParser, tmp_path: Path
) -> None:
    file = tmp_path / "overlay.yaml"
    file.write_text(text)
    message = refusal(parser, "-c", str(file))
    assert TYPOS_IN_A_FILE[text] in message
    assert str(file) in message


def test_a_flag_wins_over_a_file_wherever_it_stands(parser: ConfigurationParser, tmp_path: Path) -> None:
    (tmp_path / "late.yaml").write_text("rollout: {group_size: 6}\ndata: {init_args: {batch_size: 36}}")
    words = ["fit", "--rollout.group_size", "4", "-c", QUICKSTART, f"--config={tmp_path / 'late.yaml'}"]
    config = parser.parse_args(words).fit
    assert (config.rollout.group_size, config.data.init_args.batch_size) == (4, 36)


def test_half_a_key_is_a_typo_and_not_an_abbreviation(parser: ConfigurationParser) -> None:
    assert "`rollout.group`" in refusal(parser, "--rollout.group", "4")


def test_fit_without_a_configuration_asks_for_one(parser: ConfigurationParser) -> None:
    with pytest.raises(ConfigurationError, match="Expected a configuration with `data` and `model`, got none"):
        parser.parse_args(["fit"])


@pytest.mark.slow
def test_an_interpolation_that_leads_nowhere_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "overlay.yaml"
    file.write_text("model: {init_args: {policy: '${nope.x}'}}")
    with pytest.raises(SystemExit, match=r"^llds: Expected the \$\{...\} in `model.init_args.policy` to lead to"):
        main(["fit", "-c", QUICKSTART, "-c", str(file)])


def test_a_link_leads_to_the_settings_of_its_own_subcommand(parser: ConfigurationParser) -> None:
    config = parser.parse_args(["fit", "-c", QUICKSTART, "--trainer.default_root_dir", "elsewhere"]).fit
    assert {logger.init_args.save_dir for logger in config.trainer.logger} == {"elsewhere"}


def test_a_message_that_is_not_understood_stays_as_it_is() -> None:
    assert explain("something new\n  in two lines", []) == "something new\n  in two lines"


def train_files(parser: ConfigurationParser, value: str) -> Any:
    """What `data.train` becomes."""
    return parser.parse_args(["fit", "-c", QUICKSTART, "--data.train", value]).fit.data.init_args.train


def test_the_path_of_a_data_file_is_not_replaced_by_its_contents(parser: ConfigurationParser, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{path: "another file"}')
    assert train_files(parser, str(file)) == str(file)


def test_a_record_on_the_command_line_takes_the_place_of_a_path(parser: ConfigurationParser) -> None:
    train = train_files(parser, "{path: qa.jsonl, question_field: q, answer_field: a}")
    assert (train.path, train.question_field, train.answer_field) == ("qa.jsonl", "q", "a")


def test_files_of_a_recipe_come_from_the_hub_where_the_root_of_the_data_is_there(parser: ConfigurationParser) -> None:
    hub = "hf://datasets/RUC-NLPIR/FlashRAG_datasets"
    config = parser.parse_args(["fit", "-c", QUICKSTART, "-c", "llds:eval/benchmarks", "--data_root", hub]).fit
    assert config.data.init_args.test[0].path == f"{hub}/nq/test.jsonl"


def test_help_of_fit_begins_with_our_own_keys_and_explains_them(
    parser: ConfigurationParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: llds fit -c FILE [-c FILE ...] [--KEY VALUE ...]")
    assert text.index("--rollout.group_size") < text.index("--trainer.accelerator")
    assert "Most tokens of one action." in text
    assert "model.optimization: learning_rate, weight_decay," in text, "keys of classes are not options of the parser"


def test_the_help_of_a_class_finds_the_class_and_names_keys_as_they_are_typed(
    parser: ConfigurationParser, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingParser, "help_of", ("", ""))
    words = with_class_of_help(["fit", "-c", QUICKSTART, "--model.llds_penalty.help"])
    assert words[-1] == "llds.losses.LLDSPenalty"
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    text = capsys.readouterr().out
    assert text.startswith("usage: llds fit -c FILE [--model.llds_penalty.KEY VALUE ...]\n")
    assert "--model.llds_penalty.coefficient" in text
    with pytest.raises(ConfigurationError, match=r"Expected a class after `--trainer.logger.help`, got none"):
        parser.parse_args(with_class_of_help(["fit", "--trainer.logger.help"]))


def test_an_overlay_alone_is_told_as_one_with_what_it_changes(parser: ConfigurationParser) -> None:
    for name, complaint in (("llds:ablations/no_llds", "llds:quickstart"), ("llds:rollout/overlap", "llds:quickstart")):
        with pytest.raises(ConfigurationError, match=rf"an overlay.*llds fit -c {complaint} -c {name}\."):
            parser.parse_args(["fit", "-c", name])


def test_a_package_that_is_missing_is_named_with_the_key_and_the_command() -> None:
    loggers = [{"class_path": "CSVLogger"}, {"class_path": "a.WandbLogger", "init_args": {}}]
    message = """Does not validate against any of the Union subtypes
      - Problem with given class_path 'a.WandbLogger':
          Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip install -U 'wandb>=0.12.10'`"""
    assert missing_package(message, {"trainer": {"logger": loggers}}) == (
        "Expected package wandb for `trainer.logger` (a.WandbLogger), got none of that name. "
        "Install it: pip install wandb (>=0.12.10)."
    )
    assert "pip install mlflow." in missing_package("No module named 'mlflow.tracking'", {})
    assert missing_package("anything else", {}) == ""


def test_what_a_class_in_a_list_says_is_one_line() -> None:
    """As jsonargparse tells it: the error of the class is text, between what it says of types."""
    message = """Does not validate against any of the Union subtypes
Subtypes: [list[Callback], <class 'NoneType'>]
Errors:
  - The provided `pruning_fn` isn't available
  - Not a valid subclass of Callback
  - Expected a <class 'NoneType'>
Given value: [...]"""
    said = r"^Expected classes that .* got: The provided `pruning_fn` isn't"
    with pytest.raises(ConfigurationError, match=said), errors_of_constructors():
        raise ValueError(message)
    with pytest.raises(ValueError, match="of a user's own"), errors_of_constructors():
        raise ValueError("of a user's own")


def test_advertisements_are_silent_and_warnings_are_not() -> None:
    logger = logging.getLogger("lightning.pytorch")
    seen: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    logger.addHandler(recorder := Recorder())
    try:
        quiet()
        logger.warning("try installing [litlogger]")
        logger.warning("the loss is not finite")
    finally:
        logger.removeHandler(recorder)
    assert seen == ["the loss is not finite"]


def write_on(writer: EventFileWriter) -> None:
    """Until the writer hears from its thread, which may be a call later."""
    for _ in range(1000):
        writer.add_event(Event(step=1))
        writer.flush()


def test_a_disk_that_fails_the_thread_of_tensorboard_is_told_once_by_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    quiet()
    quiet()
    writer = EventFileWriter(str(tmp_path / "gone"))
    writer.flush()
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        write_on(writer)
    writer._async_writer._worker.join()
    assert told == []
    other = threading.Thread(target=(tmp_path / "nothing").read_text)
    other.start()
    other.join()
    assert [type(one.exc_value) for one in told] == [FileNotFoundError]


def test_windows_is_refused_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(SystemExit, match=r"^llds: Expected Linux or macOS, got Windows. Use WSL"):
        main(["fit", "-c", QUICKSTART])


def test_a_run_that_its_ladder_stopped_ends_with_a_status_of_its_own() -> None:
    cli = SearchAgentCLI.__new__(SearchAgentCLI)
    monitor = CollapseMonitor()
    cli.trainer = SimpleNamespace(callbacks=[monitor], strategy=None)  # type: ignore[assignment]
    cli.after_fit()
    monitor.has_stopped = True
    with pytest.raises(SystemExit) as stopped:
        cli.after_fit()
    assert stopped.value.code == STOPPED_BY_LADDER == 3
