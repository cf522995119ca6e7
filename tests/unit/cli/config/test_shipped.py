"""Configurations by name, lists that replace each other, and the configuration that a run saves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from llds.cli.config.saved import SaveConfig
from llds.cli.config.shipped import configuration_file, shipped_file, shipped_instead, shipped_names
from llds.cli.training.command import build_cli
from llds.errors import ConfigurationError

CONF = Path(__file__).parents[4] / "conf"


def test_the_names_are_those_of_the_files_in_conf() -> None:
    expected = {path.relative_to(CONF).as_posix().removesuffix(".yaml") for path in CONF.rglob("*.yaml")}
    assert set(shipped_names()) == expected
    assert {"quickstart", "ablations/lambda_0.01", "baselines/one_shot/rag"} <= expected


@pytest.mark.parametrize("word", ["llds:ablations/lambda_0.01", "llds:ablations/lambda_0.01.yaml"])
def test_a_name_leads_to_the_file_with_and_without_its_ending(word: str) -> None:
    assert Path(configuration_file(word)).samefile(CONF / "ablations" / "lambda_0.01.yaml")


@pytest.mark.parametrize("path", ["conf/quickstart.yaml", "quickstart", "/tmp/x.yaml"])  # noqa: S108 (never made)
def test_a_path_stays_a_path(path: str) -> None:
    assert configuration_file(path) == path


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("quickstrat", "llds:quickstart"),
        ("no_llds", "llds:ablations/no_llds"),
        ("ablation/no_lds", "llds:ablations/no_llds"),
        ("direct", "llds:baselines/direct or llds:baselines/one_shot/direct"),
        ("quickstart/policy", "llds:quickstart"),
    ],
)
def test_an_unknown_name_gets_the_nearest_right_ones(word: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError, match=f"got no such name. Did you mean {nearest}"):
        shipped_file(word)


def test_a_name_like_none_gets_the_command_that_lists_them() -> None:
    with pytest.raises(ConfigurationError, match=r"got no such name\. `llds configs` lists them\."):
        shipped_file("../../etc/passwd")


def test_a_path_of_a_clone_where_there_is_none_gets_the_name() -> None:
    assert shipped_instead("conf/ablations/no_kl.yaml") == "It ships with llds: -c llds:ablations/no_kl."
    assert shipped_instead("mine.yaml") == ""


def test_no_secret_is_saved_with_a_run(tmp_path: Path) -> None:
    parser = LightningArgumentParser()
    for name in ("logger", "default_root_dir", "max_epochs"):
        parser.add_argument(f"--trainer.{name}", type=Any)
    command = ["fit", "--trainer.logger.api_key", "hunter2", "--trainer.max_epochs", "3"]
    logger = "--trainer.logger={api_key: hunter2, host: 'http://me:hunter2@host'}"
    config = parser.parse_args([logger, f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=3"])
    trainer: Any = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path))
    SaveConfig(parser, config, command).on_train_start(trainer, None)  # type: ignore[arg-type]
    text = (tmp_path / "config.yaml").read_text()
    assert "hunter2" not in text
    assert yaml.safe_load(text)["trainer"]["max_epochs"] == 3
    assert "--trainer.logger.api_key '(not written)' --trainer.max_epochs 3" in text.splitlines()[0]


FIRST = """
model: {init_args: {agent_tools: [{class_path: llds.agent_tools.SearchTool, init_args: {name: search, top_k: 7}}]}}
trainer:
  callbacks:
    - {class_path: llds.callbacks.IterationCheckpoint, init_args: {every_n_iterations: 10}}
"""
SECOND = """
model: {init_args: {agent_tools: [{class_path: llds.agent_tools.CalculatorTool}]}}
trainer: {callbacks: [{class_path: llds.callbacks.TrajectoryLog}]}
"""
THIRD = """
trainer: {callbacks+: [{class_path: llds.callbacks.RunReport, init_args: {every_n_iterations: 3}}]}
"""


@pytest.mark.slow
def test_each_item_has_its_own_settings_alone(tmp_path: Path) -> None:
    words = ["-c", "llds:quickstart"]
    for number, text in enumerate((FIRST, SECOND, THIRD)):
        (tmp_path / f"{number}.yaml").write_text(text)
        words += ["-c", str(tmp_path / f"{number}.yaml")]
    cli = build_cli(words, run=False)
    assert [tool.name for tool in cli.model.agent_tools] == ["calculate"]
    log, report = cli.config["trainer"]["callbacks"]
    assert (log["class_path"], log["init_args"]["every_n_iterations"]) == ("llds.callbacks.TrajectoryLog", 1)
    assert (report["class_path"], report["init_args"]["every_n_iterations"]) == ("llds.callbacks.RunReport", 3)
