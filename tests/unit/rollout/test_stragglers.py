"""Stragglers: who is given up and when, what becomes of them, and that nobody else is touched."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from llds.agent_tools import AgentTool
from llds.errors import ConfigurationError
from llds.rollout import Collection, EpisodeLimits, RolloutCollector, Stragglers, TagProtocol, ToolCallPolicy
from llds.types import Prompt, SamplingParams, ToolResult, Trajectory
from tests.runs import Oracle, answers, by_iteration, make_run, scripted
from tests.scripted_sampler import ScriptedSampler

LIMITS = EpisodeLimits(action_tokens=64, observation_tokens=64, total_tokens=512, turns=2)


class Slow(AgentTool):
    """Never answers the trajectories of these numbers."""

    name = "search"
    description = "Finds passages."

    def __init__(self, *stuck: str) -> None:
        self.stuck = stuck
        self.cancelled: list[str] = []

    async def run(self, argument: str) -> ToolResult:
        """Answer, or wait for good."""
        if argument in self.stuck:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.cancelled.append(argument)
                raise
        return ToolResult("Oslo")


@pytest.fixture
def collect(tokenizer: PreTrainedTokenizerFast) -> Callable[[Slow, Stragglers | None], list[Trajectory]]:
    """Collects 10 trajectories, each of which searches for its own number and answers."""

    def say(trajectory: int, turn: int) -> str:
        return "<answer>Oslo</answer>" if turn else f"<search>{trajectory}</search>"

    def collect(tool: Slow, stragglers: Stragglers | None) -> list[Trajectory]:
        sampler = ScriptedSampler(tokenizer, say)
        policy = ToolCallPolicy(deadline_s=900.0)
        collector = RolloutCollector(sampler, tokenizer, TagProtocol(), [tool], policy)
        prompts = [Prompt(str(n), "?", ("Oslo",), prompt_ids=(5, 6, 7)) for n in range(5)]
        found = collector.collect(prompts, Collection(2, SamplingParams(), LIMITS, (0, 0), stragglers=stragglers))
        collector.close()
        assert not sampler.open
        return found

    return collect


def test_the_last_ones_are_given_up_and_marked(collect) -> None:
    tool = Slow("3", "7")
    found = collect(tool, Stragglers(done_share=0.8, time_factor=1.0))
    given_up = [one.index for one in found if one.status == "failed"]
    assert given_up == [3, 7]
    assert {one.failed_by for one in found if one.index in given_up} == {"time"}
    assert sorted(tool.cancelled) == ["3", "7"]
    assert {one.status for one in found if one.index not in given_up} == {"answered"}


def test_nobody_is_given_up_where_all_are_done_in_time(collect) -> None:
    found = collect(Slow(), Stragglers(done_share=0.5, time_factor=1e6))
    assert {one.status for one in found} == {"answered"}


@pytest.mark.parametrize(
    ("on_failure", "left"), [("drop_trajectory", [0, 0, 0, 1, 1, 1, 1]), ("drop_group", [1, 1, 1, 1])]
)
def test_those_given_up_leave_the_loss_and_are_counted_apart_from_failures(
    tmp_path: Path, on_failure: str, left: list[int]
) -> None:
    class FirstIsStuck(Oracle):
        async def run(self, argument: str) -> ToolResult:
            if argument.endswith("demonym 0"):
                await asyncio.sleep(600)
            return await super().run(argument)

    stragglers = Stragglers(done_share=0.8, time_factor=1.0)
    rollout = {"stragglers": stragglers, "on_failure": on_failure, "max_failed": 0.0}
    run = make_run(tmp_path, iterations=1, sampler=scripted(answers), rollout=rollout, tools=[FirstIsStuck()])
    groups: list[int] = []
    step = run.module.training_step

    def training_step(batch, batch_idx: int) -> None:
        groups.extend(batch.policy_batch.groups.tolist())
        step(batch, batch_idx)

    run.module.training_step = training_step  # type: ignore[method-assign]
    run.fit()  # `max_failed` is 0: they are no failures
    [row] = by_iteration(tmp_path).values()
    assert len(groups) == len(left)
    assert float(row["rollout/abandoned"]) == 1 / 8
    assert float(row["rollout/failed"]) == 0
    assert float(row["rollout/dropped"]) == 1 - len(left) / 8
    assert float(row["rollout/abandoned_tokens"]) > 0


@pytest.mark.parametrize("change", [{"done_share": 0.0}, {"done_share": 1.0}, {"time_factor": 0.9}])
def test_bad_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"rollout\.stragglers"):
        replace(Stragglers(), **change)
