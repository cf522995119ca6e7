"""The way from a prompt to a loss is short and straight: these files, in which each step calls the next."""

import ast
import re
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest

import llds
from tests.runs import answers, make_run, scripted

ROOT = Path(__file__).parents[2]
LOADER, CALLBACK = "llds/data/loader.py", "llds/callbacks/rollout/callback.py"
COLLECT, EPISODE = "llds/rollout/collect.py", "llds/rollout/episode.py"
BATCH, MODULE = "llds/batches/policy_batch.py", "llds/modules/search_agent.py"
UPDATES, OBJECTIVE = "llds/modules/updates.py", "llds/modules/objective.py"
FILES = (LOADER, CALLBACK, COLLECT, EPISODE, BATCH, MODULE, UPDATES, OBJECTIVE)
MOST_FILES, MOST_LINES = 8, 1800


class Step(NamedTuple):
    """A function calls another.

    Attributes:
        file: Where the first is.
        function: Its qualified name.
        next_file: Where the other is.
        next_function: Its qualified name.
        imports: Who the first file takes the other's file for: the name that it imports from there.
    """

    file: str
    function: str
    next_file: str
    next_function: str
    imports: str = ""


STEPS = (
    # Lightning takes a batch from the loader and hands it to the callback: `test_lightning_carries_...` below
    Step(CALLBACK, "RolloutCallback.on_train_batch_start", CALLBACK, "RolloutCallback._roll_out"),
    Step(CALLBACK, "RolloutCallback._roll_out", CALLBACK, "RolloutCallback._begin"),
    Step(CALLBACK, "RolloutCallback._begin", COLLECT, "RolloutCollector.begin", "RolloutCollector"),
    Step(COLLECT, "RolloutCollector.begin", COLLECT, "RolloutCollector._fill"),
    Step(COLLECT, "RolloutCollector._fill", COLLECT, "RolloutCollector._run_all"),
    Step(COLLECT, "RolloutCollector._run_all", EPISODE, "run_episode", "run_episode"),
    Step(EPISODE, "run_episode", EPISODE, "_take_turn"),
    Step(EPISODE, "_take_turn", EPISODE, "_act"),
    Step(EPISODE, "_take_turn", EPISODE, "_observe"),
    Step(CALLBACK, "RolloutCallback.on_train_batch_start", CALLBACK, "RolloutCallback.tensors"),
    Step(CALLBACK, "RolloutCallback.tensors", BATCH, "collate", "collate"),
    Step(CALLBACK, "RolloutCallback.tensors", MODULE, "SearchAgentModule.prepare", "SearchAgentModule"),
    Step(MODULE, "SearchAgentModule.training_step", MODULE, "SearchAgentModule.update"),
    Step(MODULE, "SearchAgentModule.update", UPDATES, "PolicyUpdate.run", "PolicyUpdate"),
    Step(UPDATES, "PolicyUpdate.run", UPDATES, "PolicyUpdate.step"),
    Step(UPDATES, "PolicyUpdate.step", UPDATES, "PolicyUpdate._forward_and_backward"),
    Step(UPDATES, "PolicyUpdate._forward_and_backward", OBJECTIVE, "Objective.loss", "Objective"),
    Step(OBJECTIVE, "Objective.loss", OBJECTIVE, "Objective._evaluate"),
)


def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def functions(file: str) -> dict[str, ast.AST]:
    """All functions of a file that are not within another, by qualified name."""
    found: dict[str, ast.AST] = {}
    for node in tree(file).body:
        if isinstance(node, ast.ClassDef):
            members = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}.{one.name}": one for one in members}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
    return found


def called(function: ast.AST) -> set[str]:
    """Last names of what a function calls."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {one.attr for one in calls if isinstance(one, ast.Attribute)} | {
        one.id for one in calls if isinstance(one, ast.Name)
    }


def imported(file: str, source: str) -> set[str]:
    """What a file imports from another, or from a room that it is in."""
    module = source.removesuffix(".py").replace("/", ".")
    found = [node for node in ast.walk(tree(file)) if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.name for node in found if f"{module}.".startswith(f"{node.module}.") for name in node.names}


def lines(file: str) -> int:
    return len((ROOT / file).read_text().splitlines())


def test_the_way_from_a_prompt_to_a_loss_is_short() -> None:
    assert len(FILES) <= MOST_FILES
    assert {file for step in STEPS for file in (step.file, step.next_file)} | {LOADER} == set(FILES)
    assert sum(lines(file) for file in FILES) <= MOST_LINES


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.function} -> {step.next_function}")
def test_each_step_of_the_way_calls_the_next(step: Step) -> None:
    assert step.next_function in functions(step.next_file)
    assert step.next_function.rsplit(".", 1)[-1] in called(functions(step.file)[step.function])
    if step.file != step.next_file:
        assert step.imports == step.next_function.split(".")[0]
        assert step.imports in imported(step.file, step.next_file)


def test_the_check_sees_a_step_that_is_not_there() -> None:
    assert "loss" not in called(functions(UPDATES)["PolicyUpdate.run"])
    assert "Objective" not in imported(LOADER, OBJECTIVE)
    assert "PolicyBatch" in imported(UPDATES, BATCH)  # by way of its room


def test_lightning_carries_what_the_loader_makes_to_the_callback() -> None:
    assert "RolloutBatch" in called(functions(LOADER)["PromptLoader.__iter__"])
    hook: Any = functions(CALLBACK)["RolloutCallback.on_train_batch_start"]
    assert "RolloutBatch" in [ast.unparse(argument.annotation) for argument in hook.args.args if argument.annotation]


def test_the_package_says_the_way() -> None:
    assert tuple(re.findall(r"^\d\. ``(.+?)``", llds.__doc__ or "", re.MULTILINE)) == FILES


def test_a_training_goes_the_way(tmp_path: Path) -> None:
    codes: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    run = make_run(tmp_path, iterations=1, sampler=scripted(answers))
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        run.fit()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    entered = {(code.co_filename, code.co_qualname) for code in codes}
    wanted = [(LOADER, "PromptLoader.__iter__")]
    wanted += [part for step in STEPS for part in ((step.file, step.function), (step.next_file, step.next_function))]
    missed = [(file, name) for file, name in wanted if (str(ROOT / file), name) not in entered]
    assert missed == []
