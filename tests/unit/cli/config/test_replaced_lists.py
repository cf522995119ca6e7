"""A list in a later file replaces the list whole: no item keeps settings of the one that stood at its place."""

from pathlib import Path

from llds.cli.training.command import build_cli

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
