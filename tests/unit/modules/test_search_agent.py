"""Updates of the real module: invariances of the gradient, the non-finite guard, refusals at start-up."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llds.agent_tools import AgentTool, CalculatorTool
from llds.batches import PolicyBatch, RolloutBatch
from llds.batches.loss_inputs import with_observations, with_selection
from llds.batches.policy_batch import collate
from llds.errors import ConfigurationError, TooManyFailuresError
from llds.losses import (
    CISPOLoss,
    EntropyBonus,
    HighEntropyTokens,
    ImportanceCorrection,
    ImportanceMask,
    KLCov,
    KLPenalty,
    LLDSPenalty,
    ObservationNLL,
    OffPolicySequenceMask,
    PositiveNLL,
    ReinforcePlusPlusAdvantages,
    RLOOAdvantages,
    VoidTurns,
)
from llds.metrics import as_floats
from llds.modules import LoRA, Optimization, SearchAgentModule, search_agent
from llds.modules.update_record import UpdateRecord
from llds.types import Trajectory
from tests.runs import Run, answers, by_iteration, make_run, scripted, tiny_policy
from tests.trajectories import random_trajectories

MakeModule = Callable[..., Any]


def moved_batch(module: Any, seed: int = 0) -> PolicyBatch:
    """A prepared batch whose old log-probs are a little off the policy's, so that every term of the loss acts."""
    batch = module.prepare(collate(random_trajectories(seed=seed)))
    noise = torch.Generator().manual_seed(0)
    shift = 0.1 * torch.randn(batch.old_log_probs.shape, generator=noise, dtype=torch.float64)
    return replace(batch, old_log_probs=batch.old_log_probs + shift)


def gradient(module: Any, batch: PolicyBatch) -> Tensor:
    """The gradient that one optimizer step on the whole batch would use."""
    caught: list[Tensor] = []

    def catch(loss: Tensor) -> dict[str, float]:
        caught.append(torch.cat([value.grad.flatten().clone() for value in module.policy.parameters()]))
        return {}

    module.gradients.step = catch
    record = UpdateRecord.of(batch, torch.float64)
    module.policy_update().step(batch, torch.arange(len(batch)), record)
    return caught[0]


def relative_gap(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("aggregation", ["trajectory", "token"])
def test_a_gradient_depends_on_neither_micro_batches_nor_padding_nor_row_order(
    make_module: MakeModule, aggregation: str
) -> None:
    penalties = {
        "kl_penalty": KLPenalty(0.1, aggregation=aggregation),
        "llds_penalty": LLDSPenalty(1.0, aggregation=aggregation),
    }
    module = make_module(**penalties)
    batch = moved_batch(module)
    expected = gradient(module, batch)
    assert expected.abs().max() > 1e-3
    gaps = {}
    for size in (1, 2, 5, 16):
        module.optimization = Optimization(mini_batch_size=2, micro_batch_size=size)
        gaps[f"micro-batches of {size}"] = relative_gap(gradient(module, batch), expected)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    gaps["row order"] = relative_gap(gradient(module, batch.rows(order)), expected)
    gaps["padding"] = relative_gap(gradient(module, padded(batch, 7)), expected)
    print(", ".join(f"{name}: {gap:.1e}" for name, gap in gaps.items()))  # shown by pytest -s
    assert max(gaps.values()) <= 1e-12, gaps


def padded(batch: PolicyBatch, columns: int) -> PolicyBatch:
    """The batch with so many columns of garbage behind it."""
    fill: dict[str, float] = {"input_ids": 3, "action_index": -1}
    changes = {}
    for name, value in vars(batch).items():
        if value is not None and value.ndim == 2:
            garbage = torch.full((len(batch), columns), fill.get(name, 0)).to(value.dtype)
            if name.endswith("log_probs"):
                garbage = torch.full_like(garbage, float("nan"))
            changes[name] = torch.cat([value, garbage], dim=1)
    return replace(batch, **changes)


@pytest.mark.slow
def test_without_penalties_the_gradient_is_that_of_coefficient_zero_to_the_bit(make_module: MakeModule) -> None:
    plain = make_module(kl_penalty=None, llds_penalty=None)
    zero = make_module(kl_penalty=KLPenalty(0.0), llds_penalty=LLDSPenalty(0.0))
    batch = moved_batch(plain)
    assert torch.equal(gradient(plain, batch), gradient(zero, batch))
    with_llds = make_module(kl_penalty=None, llds_penalty=LLDSPenalty(1.0))
    assert not torch.equal(gradient(plain, batch), gradient(with_llds, batch))


def test_the_reference_is_loaded_only_where_a_penalty_needs_it(make_module: MakeModule) -> None:
    assert make_module(kl_penalty=KLPenalty(0.0)).reference is None
    assert make_module(kl_penalty=None).reference is None
    module = make_module()
    assert not any(value.requires_grad for value in module.reference.parameters())
    batch = module.prepare(collate(random_trajectories()))
    assert torch.equal(batch.ref_log_probs, batch.old_log_probs)  # before the first step they are one policy


def test_a_reference_of_another_folder_is_scored_before_the_first_step_too(make_module: MakeModule) -> None:
    module = make_module(reference=tiny_policy())
    with torch.no_grad():
        for value in module.reference.parameters():
            value.mul_(1.5)
    batch = module.prepare(collate(random_trajectories()))
    assert not torch.equal(batch.ref_log_probs, batch.old_log_probs)


def test_a_lora_policy_is_its_own_reference(make_module: MakeModule) -> None:
    module = make_module(lora=LoRA(rank=2))
    assert module.reference is None
    with torch.no_grad():
        for name, value in module.policy.named_parameters():
            if "lora_B" in name:
                value.fill_(0.1)
    module.iteration = 1
    batch = module.prepare(collate(random_trajectories()))
    plain = make_module().prepare(collate(random_trajectories()))
    assert torch.equal(batch.ref_log_probs, plain.old_log_probs)
    assert not torch.equal(batch.old_log_probs, plain.old_log_probs)


def shared_groups(groups: int = 4, members: int = 4) -> list[Trajectory]:
    """Groups whose trajectories share their prompt and their first action."""
    trajectories = random_trajectories(groups, members)
    for number, trajectory in enumerate(trajectories):
        first = trajectories[number - number % members]
        trajectory.prompt = first.prompt
        one, other = trajectory.turns[0], first.turns[0]
        trajectory.turns[0] = replace(one, action_ids=other.action_ids, behavior_log_probs=other.behavior_log_probs)
    return trajectories


def distinct_tokens(trajectories: Sequence[Trajectory]) -> int:
    """Beginnings of trajectories that differ: each is one token of a prefix tree."""
    return len({tuple(t.token_ids[: end + 1]) for t in trajectories for end in range(len(t.token_ids))})


def decoded_tokens(module: Any, counts: list[int]) -> None:
    """Count the tokens of each forward pass, through the policy and the reference."""
    for policy in (module.policy, module.reference):
        if policy is not None:
            policy.base_model.get_decoder().register_forward_hook(
                lambda _, __, given, ___: counts.append(given["input_ids"].numel()), with_kwargs=True
            )


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, (2, 3)),  # old policy, which the reference is before the first step; update
        ({"kl_penalty": None}, (2, 2)),
        ({"kl_penalty": KLPenalty(0.0)}, (2, 2)),
        ({"lora": LoRA(rank=2)}, (2, 3)),
        ({"optimization": Optimization(mini_batch_size=2, micro_batch_size=64, epochs=2)}, (3, 4)),
        ({"optimization": Optimization(mini_batch_size=4, micro_batch_size=64), "llds_penalty": None}, (2, 2)),
        (
            {
                "optimization": Optimization(mini_batch_size=4, micro_batch_size=64),
                "llds_penalty": None,
                "kl_penalty": None,
            },
            (1, 1),  # with one step per iteration its own forward is that of the old policy
        ),
    ],
)
def test_an_iteration_computes_each_distinct_token_once_for_each_policy(
    make_module: MakeModule, changes: dict[str, Any], passes: tuple[int, int]
) -> None:
    module = make_module(**({"optimization": Optimization(mini_batch_size=2, micro_batch_size=64)} | changes))
    trajectories = shared_groups()
    distinct = distinct_tokens(trajectories)
    assert distinct < 0.9 * sum(len(trajectory.token_ids) for trajectory in trajectories)
    counts: list[int] = []
    decoded_tokens(module, counts)
    for iteration, expected in enumerate(passes):
        counts.clear()
        module.iteration = iteration
        module.policy_update().run(module.prepare(collate(trajectories)))
        assert sum(counts) == expected * distinct


def test_the_only_step_of_an_iteration_takes_the_old_policy_from_its_own_forward(make_module: MakeModule) -> None:
    one_step = Optimization(mini_batch_size=4, micro_batch_size=3)
    module = make_module(optimization=one_step, llds_penalty=LLDSPenalty(anchor="lagged", coefficient=1.0))
    with torch.no_grad():  # away from the reference and the anchor
        module.prepare(collate(random_trajectories()))
        for value in module.policy.parameters():
            value.mul_(1.02)
    module.iteration = 1
    batch = module.prepare(collate(random_trajectories()))
    assert batch.old_log_probs is None
    explicit = replace(batch, old_log_probs=module.score(module.policy, batch))
    assert relative_gap(gradient(module, batch), gradient(module, explicit)) <= 1e-12
    filled = RolloutBatch([])
    filled.policy_batch, filled.trained = batch, random_trajectories()
    module.gradients.update_norm = lambda learning_rates: {}
    module.update(filled)
    assert filled.policy_batch.old_log_probs is not None
    assert float((filled.policy_batch.old_log_probs - explicit.old_log_probs).abs().max()) <= 1e-12
    assert filled.metrics["policy/ratio_max"] == 1.0


@pytest.mark.parametrize("anchor", ["old", "lagged"])
def test_llds_does_not_act_on_rounding_before_the_first_step(make_module: MakeModule, anchor: str) -> None:
    module = make_module(llds_penalty=LLDSPenalty(1.0, anchor=anchor, anchor_lag=9), kl_penalty=None)
    plain = make_module(llds_penalty=None, kl_penalty=None)
    steps = []
    for one in (module, plain):
        batch = one.prepare(collate(random_trajectories()))
        rounding = 1e-6 * torch.randn(batch.old_log_probs.shape, generator=torch.Generator().manual_seed(0))
        record = one.policy_update().run(replace(batch, old_log_probs=batch.old_log_probs + rounding))
        steps.append([as_floats(step) for step in record.steps])
    first, second = steps[0]
    assert first["llds/open_gates"] == first["train/llds_loss"] == 0
    assert first["train/grad_norm"] == steps[1][0]["train/grad_norm"]
    assert second["llds/open_gates"] > 0  # the weights have moved: what fell since is measured
    assert second["train/llds_loss"] > 0


def test_scores_depend_on_neither_micro_batches_nor_ranks(
    make_module: MakeModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module()
    batch = with_observations(collate(random_trajectories(groups=2)))
    watched = torch.tensor([3, 5, 400])

    def scores() -> torch.Tensor:
        return torch.stack(module.scores(module.policy, batch, "log_probs", "watched", watched=watched))

    whole = scores()
    assert (whole[1][batch.action_mask] > 0).all()
    module.optimization = replace(module.optimization, micro_batch_size=1)
    assert torch.allclose(scores(), whole, rtol=0, atol=1e-12)
    monkeypatch.setattr(search_agent, "world_size", lambda: 2)
    shares = []
    for number in range(2):
        monkeypatch.setattr(search_agent, "rank", lambda number=number: number)
        shares.append(scores())  # of one process: nothing is added up
    assert torch.allclose(sum(shares), whole, rtol=0, atol=1e-12)
    assert not torch.equal(shares[0], whole)


def test_the_policy_is_the_old_one_until_a_step_was_taken() -> None:
    record = UpdateRecord(torch.zeros(1), torch.zeros(1))
    assert not record.has_moved
    record.steps.append({"train/nonfinite_step": 1.0})
    assert not record.has_moved
    record.steps.append({"train/nonfinite_step": 0.0})
    assert record.has_moved


def test_updates_raise_what_was_right_and_are_recorded(make_module: MakeModule) -> None:
    module = make_module(llds_penalty=None)
    batch = module.prepare(collate(random_trajectories()))
    record = module.policy_update().run(batch)
    after = module.score(module.policy, batch)
    change = ((after - batch.old_log_probs) * batch.action_mask).sum(1)
    right = batch.rewards > 0
    assert (change[right] > 0).all()
    assert change[right].mean() > change[~right].mean()
    assert len(record.steps) == 2  # four groups in mini-batches of two prompts
    assert (record.entropy[batch.action_mask] > 0).all()


@pytest.mark.slow
def test_a_nonfinite_step_changes_no_bit_of_weights_or_optimizer_and_a_run_of_them_stops(
    make_module: MakeModule,
) -> None:
    module = make_module()
    optimizer = module.optimizers()
    batch = moved_batch(module)
    record = UpdateRecord.of(batch, torch.float64)
    rows = torch.arange(len(batch))
    module.policy_update().step(batch, rows, record)
    before = [value.detach().clone() for value in module.policy.parameters()]
    moments = [state["exp_avg"].clone() for state in optimizer.state.values()]
    poisoned = batch.old_log_probs.clone()
    poisoned[0, batch.action_mask[0]] = float("nan")
    poison = replace(batch, old_log_probs=poisoned)
    for _ in range(2):
        module.policy_update().step(poison, rows, record)
    assert record.steps[-1] == {"train/nonfinite_step": 1.0}
    assert module.nonfinite.total == 2
    assert all(torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=True))
    assert all(torch.equal(a, s["exp_avg"]) for a, s in zip(moments, optimizer.state.values(), strict=True))
    module.policy_update().step(batch, rows, record)  # a finite step ends the run of them
    for _ in range(2):
        module.policy_update().step(poison, rows, record)
    with pytest.raises(TooManyFailuresError, match="3 optimizer steps in a row"):
        module.policy_update().step(poison, rows, record)


def test_a_loss_that_is_not_finite_is_caught_though_the_gradient_is(make_module: MakeModule) -> None:
    module = make_module()
    weight = next(module.policy.parameters())
    before = weight.detach().clone()
    for loss in (float("nan"), float("inf")):
        weight.grad = torch.ones_like(weight)
        assert module.gradients.step(torch.tensor(loss)) is None
    assert torch.equal(weight, before)
    assert module.nonfinite.total == 2


def test_a_gradient_that_is_not_finite_is_caught_though_the_loss_is(make_module: MakeModule) -> None:
    module = make_module(optimization=Optimization(mini_batch_size=2, max_nonfinite_steps=1))
    batch = moved_batch(module)
    record = UpdateRecord.of(batch, torch.float64)
    weight = next(module.policy.parameters())
    weight.register_hook(lambda grad: grad.index_fill(0, torch.tensor([0]), float("inf")))
    before = [value.detach().clone() for value in module.policy.parameters()]
    with pytest.raises(TooManyFailuresError, match=r"1 optimizer steps in a row.*gradient norm inf"):
        module.policy_update().step(batch, torch.arange(len(batch)), record)
    assert all(torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=True))
    assert not module.optimizers().state


@pytest.mark.slow
def test_a_step_that_makes_weights_or_states_that_are_not_finite_ends_the_run(make_module: MakeModule) -> None:
    for kind in ("exp_avg", "exp_avg_sq"):  # NaN goes on into the weights, infinity stops a weight for ever
        module = make_module()
        batch = moved_batch(module)
        record = UpdateRecord.of(batch, torch.float64)
        module.policy_update().step(batch, torch.arange(len(batch)), record)
        state = list(module.optimizers().state.values())[-1]
        state[kind].view(-1)[-1] = float("inf")
        with pytest.raises(TooManyFailuresError, match=r"finite weights and optimizer states after a step with loss"):
            module.policy_update().step(batch, torch.arange(len(batch)), record)


def test_signals_of_a_step_do_not_depend_on_micro_batches(make_module: MakeModule) -> None:
    module = make_module()
    batch = moved_batch(module)
    seen = []
    for size in (1, 5, 16):
        module.optimization = Optimization(mini_batch_size=2, micro_batch_size=size)
        module.gradients.step = lambda loss: {}
        record = UpdateRecord.of(batch, torch.float64)
        module.policy_update().step(batch, torch.arange(len(batch)), record)
        seen.append(as_floats(record.steps[0]))
    assert seen[0]["llds/open_gates"] > 0
    assert seen[0] == pytest.approx(seen[1], rel=1e-9)
    assert seen[0] == pytest.approx(seen[2], rel=1e-9)


def test_the_policy_trains_and_the_reference_never_does(make_module: MakeModule) -> None:
    module = make_module()
    modes = []
    module.policy.register_forward_hook(lambda policy, *_: modes.append(policy.training))
    module.prepare(collate(random_trajectories()))
    assert modes
    assert not any(modes)
    assert all(part.training for part in module.policy.modules())
    assert not any(part.training for part in module.reference.modules())


def test_a_module_that_was_evaluated_first_still_gets_its_reference(make_module: MakeModule) -> None:
    module = make_module()
    module.reference = None
    module.setup("fit")
    assert module.reference is not None


def test_a_subclass_may_use_what_its_own_constructor_made_for_its_tools() -> None:
    class Calculating(SearchAgentModule):
        def __init__(self) -> None:
            super().__init__("llds:quickstart/policy")
            self.tool_name = "reckon"

        def configure_agent_tools(self) -> list[AgentTool]:
            return [CalculatorTool(self.tool_name)]

    module = Calculating()
    assert [tool.name for tool in module.agent_tools] == ["reckon"]
    assert module.agent_tools is module.agent_tools


def test_llds_that_can_never_act_is_refused_with_the_way_out(make_module: MakeModule) -> None:
    one_step = Optimization(mini_batch_size=4)
    with pytest.raises(ConfigurationError, match=r"(?s)mini_batch_size.*anchor.*lagged"):
        make_module(optimization=one_step)
    assert make_module(optimization=one_step, llds_penalty=LLDSPenalty(anchor="lagged")).anchor is not None
    assert make_module(optimization=one_step, llds_penalty=LLDSPenalty(0.0)).anchor is None


def test_a_batch_that_mini_batches_do_not_divide_is_refused(make_module: MakeModule) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.batch_size.*multiple of.*got 4 and 3 .* of 2 would fit"):
        make_module(optimization=Optimization(mini_batch_size=3))


@pytest.mark.slow
def test_a_run_with_methods_of_every_kind_logs_them_and_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    def methods() -> dict[str, Any]:
        return {
            "policy_loss": CISPOLoss(),
            "advantages": ReinforcePlusPlusAdvantages(discount=0.9),
            "terms": [EntropyBonus(0.1, target=100.0), ObservationNLL(), PositiveNLL()],
            "selections": [VoidTurns(), HighEntropyTokens(0.5), KLCov(0.1), OffPolicySequenceMask()],
            "llds_penalty": LLDSPenalty(0.1, target_rate=0.01),
        }

    def run(folder: str, iterations: int, resume: bool = False) -> Run:
        made = make_run(tmp_path / folder, iterations=iterations, sampler=scripted(answers), module=methods())
        return made.fit(resume)

    whole = run("whole", 3)
    run("part", 2)
    resumed = run("part", 3, resume=True)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())
    last = by_iteration(whole.folder)["3.0"]
    assert {
        f"train/{name}_loss" for name in ("policy", "kl", "llds", "entropy", "observation_nll", "positive_nll")
    } <= set(last)
    assert float(last["train/observation_nll_loss"]) > 0
    states = [one.module.objective.terms["entropy"].adapted() for one in (whole, resumed)]
    assert states == [{"coefficient": pytest.approx(0.115), "is_acting": True}] * 2
    assert whole.module.objective.terms["llds"].coefficient == resumed.module.objective.terms["llds"].coefficient


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantages": RLOOAdvantages(), "advantage_scale": "none"}, "`model.advantage_scale` at its default"),
        ({"terms": [PositiveNLL(), PositiveNLL()]}, "terms of different names"),
        (
            {"importance_correction": ImportanceCorrection(), "selections": [ImportanceMask()]},
            r"got `model.importance_correction` \(ImportanceCorrection\) and `model.selections` \(ImportanceMask\)",
        ),
    ],
)
def test_methods_that_do_not_go_together_are_refused(
    make_module: MakeModule, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_module(**changes)


def test_a_gradient_of_selected_tokens_depends_on_neither_micro_batches_nor_row_order(make_module: MakeModule) -> None:
    module = make_module(
        selections=[VoidTurns(), HighEntropyTokens(0.3), KLCov(0.2)], terms=[EntropyBonus(0.1), ObservationNLL()]
    )
    batch = moved_batch(module)
    batch = with_selection(batch, module.objective.selections)
    expected = gradient(module, batch)
    for size in (1, 64):
        module.optimization = replace(module.optimization, micro_batch_size=size)
        assert relative_gap(gradient(module, batch), expected) <= 1e-12
    order = torch.arange(len(batch)).flip(0)
    assert relative_gap(gradient(module, batch.rows(order)), expected) <= 1e-12
