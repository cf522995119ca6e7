"""LLDS and the watch in TRL's GRPOTrainer, with the policy that the quickstart ships."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llds.errors import ConfigurationError
from llds.losses import LLDSPenalty, grpo_loss, llds_penalty, number_actions

pytestmark = pytest.mark.slow
trl = pytest.importorskip("trl", reason="the extra llds[trl]")

from datasets import Dataset  # noqa: E402 (comes with trl)
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

import llds.quickstart  # noqa: E402
from llds.integrations.likelihood import Likelihood  # noqa: E402
from llds.integrations.transformers import CollapseCallback  # noqa: E402
from llds.integrations.trl import LLDSTrainer  # noqa: E402
from llds.monitor.sources.trl import VOCABULARY  # noqa: E402

ROOT = Path(__file__).parents[3]
POLICY = Path(llds.quickstart.__path__[0]) / "policy"
PROMPTS = [{"prompt": f"Where is {place} ?"} for place in ("Paris", "Rome", "Bonn", "Oslo") * 4]


def reward(completions: list[str], **others: Any) -> list[float]:
    return [float(len(set(one)) % 3 == 0) for one in completions]


def trainer_of(folder: Path, kind: type = LLDSTrainer, **options: Any) -> Any:
    settings = {"steps_per_generation": 4, "num_iterations": 2, "max_steps": 4} | options.pop("settings", {})
    arguments = trl.GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        num_generations=4,
        gradient_accumulation_steps=2,
        max_completion_length=8,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        loss_type="grpo",
        **settings,
    )
    return kind(
        model=AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32),
        reward_funcs=options.pop("reward_funcs", reward),
        args=arguments,
        train_dataset=Dataset.from_list(PROMPTS),
        processing_class=AutoTokenizer.from_pretrained(POLICY),
        **options,
    )


def losses_of(trainer: Any) -> list[tuple[float, float]]:
    trainer.train()
    return [(row["loss"], row["grad_norm"]) for row in trainer.state.log_history if "loss" in row]


def batch_of(trainer: Any, tool_mask: torch.Tensor | None) -> dict[str, Any]:
    """A mini-batch of two micro-batches of four, the old policy other than the present one."""
    generator = torch.Generator().manual_seed(0)
    count, length = 4, 8
    batch = {
        "prompt_ids": torch.randint(5, 50, (count, 3), generator=generator),
        "prompt_mask": torch.ones(count, 3, dtype=torch.long),
        "completion_ids": torch.randint(5, 50, (count, length), generator=generator),
        "completion_mask": (torch.arange(length) < torch.tensor([[8], [5], [7], [3]])).long(),
        "advantages": torch.tensor([1.0, -1.0, 0.0, 0.5]),
        "old_per_token_logps": -5 - 2 * torch.rand(count, length, generator=generator),
        "num_items_in_batch": torch.tensor(23.0),
    }
    return batch | ({} if tool_mask is None else {"tool_mask": tool_mask})


def test_with_lambda_0_losses_and_gradients_are_trls_to_the_bit(tmp_path: Path) -> None:
    own = losses_of(trainer_of(tmp_path, trl.GRPOTrainer))
    with_llds = trainer_of(tmp_path, llds=LLDSPenalty(0.0), callbacks=[CollapseCallback()])
    assert losses_of(with_llds) == own
    assert len(own) == 4
    with_penalty = losses_of(trainer_of(tmp_path))
    assert with_penalty[0] == own[0]  # the policy is still the old one
    assert with_penalty[1] != own[1]


@pytest.mark.parametrize("tools", [False, True], ids=["one action", "tools between actions"])
def test_the_loss_of_a_mini_batch_is_that_of_llds(tmp_path: Path, tools: bool) -> None:
    trainer = trainer_of(tmp_path)
    trainer.model.train()
    tool_mask = torch.ones(4, 8, dtype=torch.long)
    tool_mask[:, 2:4] = 0
    batch = batch_of(trainer, tool_mask if tools else None)
    trainer._buffered_inputs, trainer.current_gradient_accumulation_steps = [batch] * 4, 2
    loss = 2 * trainer.compute_loss(trainer.model, batch)  # of the two micro-batches of the mini-batch
    ids, mask = (torch.cat([batch[f"prompt_{part}"], batch[f"completion_{part}"]], 1) for part in ("ids", "mask"))
    logits = trainer.model(ids, attention_mask=mask).logits[:, 2:-1].float()
    log_probs = logits.log_softmax(-1).gather(2, batch["completion_ids"][..., None])[..., 0]
    actions = number_actions(batch["completion_mask"] * (tool_mask if tools else 1))
    assert int(actions.max()) == (1 if tools else 0)
    inputs = (log_probs, batch["old_per_token_logps"], batch["advantages"], actions)
    ours = grpo_loss(*inputs, clip_low=0.2, clip_high=0.2).loss + 0.2 * llds_penalty(*inputs).loss
    torch.testing.assert_close(loss, ours, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(one, trainer.model.lm_head.weight, retain_graph=True)[0] for one in (loss, ours)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    assert float(llds_penalty(*inputs).loss) > 0 or not tools


def test_the_log_gets_what_makes_a_collapse_visible_early(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, settings={"max_steps": 12}, budget=1.0)
    trainer.train()
    last = [row for row in trainer.state.log_history if "policy/ratio_p99" in row][-1]
    signals = VOCABULARY.row(last)
    assert {"policy/ratio_p99", "policy/log_likelihood_correct", "policy/probe_log_likelihood"} <= set(signals)
    assert {"llds/displacement_correct", "llds/lld_rate", "llds/lld_magnitude"} <= set(signals)
    assert last["time/signals_share"] > 0
    assert trainer.likelihood.is_due
    trainer.likelihood.budget = last["time/signals_share"] / 10
    assert not trainer.likelihood.is_due
    fixed = trainer.likelihood.early
    assert len(fixed) == 4
    after = trainer._score(fixed)
    expected = sum(float(after[row][one.action_index >= 0].mean()) for row, one in enumerate(fixed)) / 4
    assert signals["policy/probe_log_likelihood"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("spent_s", "cost_s", "is_due"), [(1.5, 0.4, True), (1.5, 1.0, False), (3.0, 0.0, False)])
def test_scoring_keeps_its_budget_with_what_it_last_cost(spent_s: float, cost_s: float, is_due: bool) -> None:
    likelihood = Likelihood(budget=0.02)
    likelihood._iterations, likelihood.spent_s, likelihood._cost_s = 3, spent_s, cost_s
    likelihood._started = time.perf_counter() - 100  # 2 of these seconds
    assert likelihood.is_due == is_due


def test_a_penalty_without_effect_is_refused(tmp_path: Path) -> None:
    one_update = {"steps_per_generation": 2, "num_iterations": 1}
    with pytest.raises(ConfigurationError, match="Set num_iterations to 2"):
        trainer_of(tmp_path, settings=one_update)
    trainer_of(tmp_path, settings=one_update, llds=LLDSPenalty(0.0))
    with pytest.raises(ConfigurationError, match="`anchor` old"):
        trainer_of(tmp_path, llds=LLDSPenalty(anchor="lagged"))


def code_of(page: str, heading: str) -> str:
    found = re.search(rf"^## {heading}$.*?^```python\n(.*?)^```$", page, re.M | re.S)
    assert found
    return found[1]


def test_the_three_lines_of_the_page_run(tmp_path: Path) -> None:
    code = code_of((ROOT / "docs" / "integrations.md").read_text(), "TRL")
    scores: Callable[..., list[float]] = reward
    names: dict[str, Any] = {"reward": scores, "prompts": Dataset.from_list(PROMPTS), "policy": str(POLICY)}
    small = "max_steps=1, use_cpu=True, bf16=False, per_device_train_batch_size=8, max_completion_length=8"
    exec(code.replace('"out"', repr(str(tmp_path))).replace("max_steps=200", small), names)  # noqa: S102
    assert isinstance(names["trainer"], LLDSTrainer)
    assert names["trainer"].state.global_step == 1
