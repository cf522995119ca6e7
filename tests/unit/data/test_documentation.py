"""What docs/data.md says is so: its YAML parses, its tables name the columns that are looked for."""

import re
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml

from llds.data import DataSource, PromptDataModule
from llds.data.prompts import ALIAS_COLUMN, ANSWER_COLUMNS, DATA_SOURCE_COLUMNS, ID_COLUMNS, QUESTION_COLUMNS
from llds.types import Action, Prompt, SamplingParams, Trajectory, Turn

TEXT = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_configuration_parses(block: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(block)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-c", action="config")
    parser.add_class_arguments(PromptDataModule, "data")
    data = parser.instantiate(parser.parse_args(["-c", str(tmp_path / "config.yaml")])).data
    assert isinstance(data, PromptDataModule)
    assert any(data.sources.values())


@pytest.mark.parametrize("block", re.findall(r"`(\{[^`]*\})`", TEXT))
def test_every_source_in_the_text_is_one(block: str) -> None:
    values = yaml.safe_load(block)
    assert DataSource(**values) if "path" in values else values.keys() <= {"value", "chat"}


@pytest.mark.parametrize(
    ("what", "columns"),
    [
        ("question", QUESTION_COLUMNS),
        ("gold answers", ANSWER_COLUMNS),
        ("id", ID_COLUMNS),
        ("data set", DATA_SOURCE_COLUMNS),
    ],
)
def test_the_table_names_the_columns_in_their_order(what: str, columns: tuple[str, ...]) -> None:
    (cell,) = re.findall(rf"^\| {what} \| ([^|]*) \|", TEXT, re.MULTILINE)
    assert tuple(re.findall("`([^`]*)`", cell)) == columns
    assert f"`{ALIAS_COLUMN}`" in TEXT


def test_the_reward_that_reads_a_column_works() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 (our own documentation)
    turn = Turn([3], [-0.1], "stop", Action("answer", "", "oslo"))
    rewards = [
        names["WeightedByLevel"]()(Trajectory(prompt, "0/0", 0, SamplingParams(), turns=[turn]))
        for prompt in (Prompt("1", "?", ("Oslo",), row={"level": level}) for level in ("hard", "easy"))
    ]
    assert rewards == [2.0, 1.0]
