"""Lines of trainers that are neither llds, verl nor TRL, and of resumed ones: what they print is read, NaN too."""

import math
from pathlib import Path

import pytest

from llds.monitor import read_metrics

TWO, FROM_0 = [(1, 0.5), (2, 0.25)], [(0, 0.5), (1, 0.25)]
OTHERS: dict[str, tuple[str, str, list[tuple[int, float]]]] = {
    "ms-swift.jsonl": (
        "TRL",
        '{"loss": 0.1, "entropy/mean": 0.8, "reward": 0.5, "global_step/max_steps": "1/90", "elapsed_time": "36s"}\n'
        '{"loss": NaN, "entropy/mean": 0.7, "reward": 0.25, "global_step/max_steps": "2/90", "elapsed_time": "39s"}\n',
        TWO,
    ),
    "ms-swift-console.log": (
        "TRL",
        'Train:   1%|1         | 1/90 [00:36<54:00]{"loss": NaN, "reward": 0.5, "ok": true, "kl": null}\n'
        '{"loss": -Infinity, "reward": 0.25, "memory(GiB)": 55.3}\n',
        FROM_0,
    ),
    "ms-swift-megatron.log": (
        "TRL",
        " [2025-11-25 07:19:22] iteration        7/    2174 | consumed samples:          448 | learning rate: 5.0E-05 "
        "| loss: -2.4E-06 | reward: 5.0E-01 | completions/mean_length: 4.0E+03 "
        "| grad norm: 0.016 | number of nan iterations:   0 |\n"
        " [2025-11-25 07:22:22] iteration        8/    2174 | loss: nan | reward: 2.5E-01 | grad norm: nan |\n",
        [(7, 0.5), (8, 0.25)],
    ),
    "slime.log": (
        "slime",
        "(RolloutManager pid=18) [2026-04-15 07:57:53] rollout.py:1193 - perf 0: {'rollout/response_len/mean': 2773.7, "
        "'rollout/truncated_ratio': 0.46}\n(pid=9) rollout 0: {'rollout/raw_reward': 0.5, 'rollout/rewards': -1e-08}\n"
        "(pid=9) step 0: {'train/loss': 0.01, 'train/grad_norm': 0.3}\n(pid=9) step 1: {'train/grad_norm': 0.4}\n"
        "(pid=9) rollout 1: {'rollout/raw_reward': 0.25}\n(pid=9) step 2: {'train/grad_norm': nan}\n",
        FROM_0,
    ),
    "openrlhf.log": (
        "OpenRLHF",
        "(PPOTrainer pid=1) INFO \u2728 Global step 1: {'policy_loss': 0.1, 'reward': 0.5, 'response_length': 300.0}\n"
        "(PPOTrainer pid=1) INFO \u2728 Global step 2: {'policy_loss': nan, 'reward': 0.25, 'response_length': 9.0}\n",
        TWO,
    ),
    "nemo.log": (
        "NeMo-RL",
        "========================= Step 1/29 =========================\n\U0001f4ca Training Results:\n"
        "  \u2022 Loss: 0.0100\n  \u2022 Avg Reward: 0.5000\n  \u2022 Mean Generation Length: 200.0000\n"
        "\u23f1 Timing:\n"
        "  \u2022 Total step time: 10.00s\n========================= Step 2/29 =========================\n"
        "  \u2022 Loss: nan\n  \u2022 Avg Reward: 0.2500\n",
        TWO,
    ),
    "prime-rl.log": (
        "prime-rl",
        "16:43:41 SUCCESS Step 13 | Time: 7.47s | Reward: 0.5000 | Throughput: 1800.4 tokens/s | Seq. Length: 104.9 "
        "tokens/sample | Async Level: 1 | Max. Off-Policy Level: 1\n16:43:41    INFO Starting orchestrator step 14\n"
        "16:43:42 \x1b[32mSUCCESS\x1b[0m Step 14 | Time: 0.58s | Reward: 0.2500 | Seq. Length: 104.3 tokens/sample\n",
        [(13, 0.5), (14, 0.25)],
    ),
    "areal.log": (
        "AReaL",
        "\x1b[92m(AReaL) 20260814-01:00:00.000 Stats INFO: Epoch 1/2 Step 1/3 Train step 1/6 done.\x1b[0m\n"
        "\u2502 ppo_actor/task_reward/avg \u2502 5.0000e-01 \u2502 ppo_actor/update/grad_norm \u2502 1.0e-01 \u2502\n"
        "\u251c\u2500\u253c\u2500\u2524\nEpoch 1/2 Step 2/3 Train step 2/6 done.\n"
        "\u2502 ppo_actor/task_reward/avg \u2502 2.5000e-01 \u2502 ppo_actor/update/grad_norm \u2502 nan \u2502\n",
        TWO,
    ),
    "unsloth.md": (
        "TRL",
        "My run:\n\nStep | Training Loss | reward | completion_length | rewards / exact\n-- | -- | -- | -- | --\n"
        "1 | 0.000000 | 0.5 | 445.5 | 0\n2 | -0.000000 | 0.25 | No Log | 0\n\nWhat is wrong?\n",
        TWO,
    ),
    "copied.txt": ("TRL", "Step\tTraining Loss\treward\tkl\n1\t0.0\t0.5\t0.01\n2\t0.0\t0.25\tnan\n", TWO),
    "semicolons.csv": ("TRL", "step;reward;loss\n1;0.5;0.1\n2;0.25;NaN\n", TWO),
    "run-a-tag-train_reward.csv": ("TRL", "Wall time,Step,Value\n1e9,1,0.5\n1e9,2,0.25\n", TWO),
    "run-b-tag-critic_score_mean.csv": ("verl", "Wall time,Step,Value\n1e9,1,0.5\n1e9,2,0.25\n", TWO),
    "nested.jsonl": (
        "TRL",
        '{"step": 1, "metrics": {"reward": 0.5, "completions": {"mean_length": 90}}}\n'
        '{"step": 2, "metrics": {"reward": 0.25, "completions": {"mean_length": null}}}\n',
        TWO,
    ),
    "columns.json": ("TRL", '{"name": "a", "step": [1, 2], "reward": [0.5, 0.25], "loss": [0.1, NaN]}', TWO),
    "of-history.json": ("TRL", '{"config": {"lr": 1}, "history": {"reward": [0.5, 0.25], "loss": [0.1, NaN]}}', FROM_0),
    "history.json": ("TRL", '{"config": {"lr": 1}, "history": [{"reward": 0.5}, {"reward": 0.25}]}', FROM_0),
    "open-instruct.jsonl": (
        "TRL",
        '{"training_step": 1, "objective/scores": 0.5, "val/sequence_lengths": 300, "policy/entropy_avg": 0.9}\n'
        '{"training_step": 2, "objective/scores": 0.25, "loss/policy_avg": NaN}\n',
        TWO,
    ),
    "ppo.log": (
        "TRL",
        '{\n  "eps": 3,\n  "objective/scores": 0.5,\n  "lr": 4.8e-05\n}\n{"objective/scores": 0.25}\n',
        FROM_0,
    ),
    "llama-factory.jsonl": (
        "TRL",
        '{"current_steps": 10, "total_steps": 90, "loss": 0.1, "reward": 0.5, "lr": 1e-05}\n'
        '{"current_steps": 20, "total_steps": 90, "loss": 0.1, "reward": 0.25, "lr": 1e-05}\n',
        [(10, 0.5), (20, 0.25)],
    ),
    "tinker.jsonl": (
        "Tinker",
        '{"step": 0, "env/all/reward/total": 0.5, "optim/entropy": 0.6, "test/env/all/reward/total": 0.9}\n'
        '{"progress/batch": 1, "env/all/reward/total": 0.25, "optim/kl_sample_train_v1": 0.001}\n',
        FROM_0,
    ),
    "verl.log": (
        "verl",
        "\x1b[36m(TaskRunner pid=6)\x1b[0m step:83 - actor/grad_norm:NaN - critic/score/mean:0.500 - note:Info\n"
        "\x1b[36m(TaskRunner pid=6)\x1b[0m step:84 - actor/grad_norm:inf - critic/score/mean:0.250\n",
        [(83, 0.5), (84, 0.25)],
    ),
}
"""Lines as these frameworks print or write them, with their form kept and their figures changed."""


@pytest.mark.parametrize("name", OTHERS)
def test_logs_of_other_trainers(tmp_path: Path, name: str) -> None:
    framework, content, expected = OTHERS[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    table = read_metrics(tmp_path / name)
    assert [(step, row.get("reward/mean")) for step, row in table.rows] == expected
    assert table.framework == framework
    (tmp_path / name).write_bytes(content.encode("utf-16"))  # as PowerShell redirects output
    assert len(read_metrics(tmp_path / name).rows) == len(expected)


def test_what_was_not_finite_in_a_log_of_another_trainer_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(OTHERS["slime.log"][1])
    table = dict(read_metrics(tmp_path / "a.log").rows)
    assert (table[0]["train/grad_norm"], table[0]["rollout/action_cut"]) == (0.4, 0.46)  # of its last step
    assert math.isnan(table[1]["train/grad_norm"])
    (tmp_path / "a.log").write_text(OTHERS["ms-swift-megatron.log"][1])
    assert math.isnan(dict(read_metrics(tmp_path / "a.log").rows)[8]["train/loss"])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([1, 2, 3, 4, 5, 3, 4], {1: 0, 2: 1, 3: 5, 4: 6}),  # resumed at 3, and not yet where it was
        ([1, 2, 3, 1, 2], {1: 3, 2: 4}),  # begun again
        ([5, 4, 3, 2, 1], {1: 4, 2: 3, 3: 2, 4: 1, 5: 0}),  # the newest first: no restart
    ],
)
def test_what_comes_after_the_step_of_a_resume_is_of_the_part_that_was_given_up(
    tmp_path: Path, steps: list[int], expected: dict[int, int]
) -> None:
    (tmp_path / "a.csv").write_text("step,reward\n" + "".join(f"{one},{at}\n" for at, one in enumerate(steps)))
    assert {at: row["reward/mean"] for at, row in read_metrics(tmp_path / "a.csv").rows} == expected
