"""Logs of llds and of other frameworks, as their loggers write them, become tables in our names."""

import gzip
import json
import lzma
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from llds.errors import DataError
from llds.monitor import SIGNALS, MetricTable, read_metrics
from llds.monitor.sources import VOCABULARIES

VERL = {
    "critic/score/mean": 0.25,
    "critic/rewards/mean": 0.24,
    "actor/entropy": 0.9,
    "actor/grad_norm": 0.5,
    "actor/pg_clipfrac": 0.01,
    "actor/ppo_kl": 0.002,
    "actor/kl_loss": 0.03,
    "actor/lr": 1e-6,
    "response_length/mean": 400.0,
    "response_length/clip_ratio": 0.02,
    "env/number_of_valid_search": 1.5,
    "rollout_corr/kl": 0.0004,
    "timing_s/step": 88.0,
}
TRL = {
    "reward": 0.25,
    "reward_std": 0.4,
    "frac_reward_zero_std": 0.3,
    "entropy": 0.9,
    "grad_norm": 0.5,
    "learning_rate": 1e-6,
    "kl": 0.03,
    "clip_ratio/region_mean": 0.01,
    "completions/mean_length": 400.0,
    "tools/failure_frequency": 0.0,
    "sampling/sampling_logp_difference/mean": 0.01,
    "rewards/exact/mean": 0.25,
    "epoch": 0.1,
}


def only_row(table: MetricTable) -> dict[str, float]:
    [(_, row)] = table.rows
    return row


def test_every_name_of_every_framework_leads_to_a_signal() -> None:
    ours = {signal.name for signal in SIGNALS}
    for vocabulary in VOCABULARIES:
        assert set(vocabulary.names.values()) <= ours, vocabulary.framework


def test_a_run_of_an_older_llds_is_read_by_the_names_of_today(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("iteration,reward/mean,rollout/searches\n0,0.5,1.25\n1,0.5,1.5\n")
    table = read_metrics(tmp_path / "metrics.csv")
    assert (table.framework, table.ignored) == ("llds", [])
    assert [row["rollout/tool_calls"] for _, row in table.rows] == [1.25, 1.5]


def test_a_console_log_of_verl(tmp_path: Path) -> None:
    def line(step: int, score: str) -> str:
        values = {**VERL, "critic/score/mean": score}
        return f"step:{step} - " + " - ".join(f"{key}:{value}" for key, value in values.items())

    log = tmp_path / "train.log"
    log.write_text(
        "Using LocalLogger is deprecated.\n"
        "step:0 - val-core/searchR1_nq/reward/mean@1:0.2\n"
        f"(TaskRunner pid=123) {line(1, '0.25')}\n"
        f"(TaskRunner pid=123) {line(2, 'np.float64(0.5)')}\n"
        "Training Progress:   1%|  | 2/300 [00:10<20:00, 4.0s/it]\n"
        f"{line(3, 'nan')}\n"
        f"{line(4, '-1.5e-03')}\n"
    )
    table = read_metrics(log)
    assert table.framework == "verl"
    assert [step for step, _ in table.rows] == [1, 2, 3, 4]
    rewards = [row["reward/mean"] for _, row in table.rows]
    assert rewards == pytest.approx([0.25, 0.5, math.nan, -0.0015], nan_ok=True)
    first = table.rows[0][1]
    assert first["policy/entropy"] == 0.9
    assert first["policy/likelihood_displacement"] == -0.002
    assert first["policy/behavior_kl"] == 0.0004
    assert first["rollout/tool_calls"] == 1.5
    assert table.ignored == ["val-core/searchR1_nq/reward/mean@1", "timing_s/step"]


def test_the_file_logger_of_verl(tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    log.write_text("".join(json.dumps({"step": step, "data": VERL}) + "\n" for step in (1, 2)))
    table = read_metrics(log)
    assert (table.framework, len(table.rows), table.rows[1][0]) == ("verl", 2, 2)
    assert table.rows[0][1]["reward/mean"] == 0.25


def test_what_trl_prints_as_numbers_or_strings_also_amid_progress_bars(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(
        "Loading checkpoint shards: 100%|##########| 4/4 [00:05<00:00,  1.4s/it]\n"
        "  2%|2         | 1/40 [00:30<20:00, 30s/it]{'loss': 0.01, 'grad_norm': nan, 'learning_rate': 1e-06, "
        "'reward': np.float64(0.5), 'completion_length': 100.0, 'rewards/exact/mean': 0.5, 'epoch': 0.1}\n"
        "{'loss': '0.02', 'grad_norm': '0.3', 'reward': '0.6', 'kl': '-inf', 'completions/clipped_ratio': '0.1'}\n"
        "{'eval_loss': 0.3, 'eval_reward': 0.2}\n{not a dictionary}\n{'a': [1, 2], 'loss': f(x)}\n"
        "{'train_runtime': 100.0, 'train_loss': 0.1, 'loss': 0.5}\n"
    )
    table = read_metrics(log)
    assert (table.framework, len(table.rows)) == ("TRL", 2)
    first, second = (row for _, row in table.rows)
    assert math.isnan(first["train/grad_norm"])
    assert (first["reward/mean"], first["rollout/action_tokens"]) == (0.5, 100.0)
    assert (second["reward/mean"], second["policy/kl_ref"], second["rollout/action_cut"]) == (0.6, -math.inf, 0.1)


def test_a_notebook_with_the_table_of_the_progress_bar_or_with_what_was_printed(tmp_path: Path) -> None:
    head = "".join(f"<th>{name}</th>" for name in ("Step", "Training Loss", "reward", "completions / mean_length"))
    body = "".join(f"<tr><td>{at}</td><td>0.{at}</td><td>0.5</td><td>{at}00</td></tr>" for at in (1, 2, 3))
    page = (
        f"<div><progress></progress><table border=1><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    printed = "{'loss': 0.1, 'reward': 0.25}\n{'loss': 0.1, 'reward': 0.5}\n"
    cells = [
        {"cell_type": "markdown", "source": "hello"},
        {"outputs": [{"output_type": "stream", "text": [printed]}]},
        {"outputs": [{"output_type": "display_data", "data": {"text/html": [page], "text/plain": ["x"]}}]},
    ]
    notebook = tmp_path / "train.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    table = read_metrics(notebook)
    assert [step for step, _ in table.rows] == [1, 2, 3]
    assert table.rows[2][1] == {"reward/mean": 0.5, "train/loss": 0.3, "rollout/action_tokens": 300.0}
    notebook.write_text(json.dumps({"cells": cells[:2]}))
    assert [row["reward/mean"] for _, row in read_metrics(notebook).rows] == [0.25, 0.5]
    (tmp_path / "train.html").write_text(page)
    assert len(read_metrics(tmp_path / "train.html").rows) == 3


@pytest.mark.slow
def test_a_wandb_file_of_a_run(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    run = wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True))
    for step in range(300):  # more than a block of the file
        run.log({"train/reward": 0.5, "train/loss": math.nan, "train/global_step": 10 * step, "pad": "x" * 200})
    run.finish()
    [path] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    table = read_metrics(path)
    assert (table.framework, len(table.rows), table.rows[-1][0]) == ("TRL", 300, 2990)
    assert math.isnan(table.rows[7][1]["train/loss"])


def test_a_wandb_file_without_the_package_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb.proto.wandb_internal_pb2", None)
    (tmp_path / "run.wandb").write_bytes(b":W&B")
    with pytest.raises(DataError, match="pip install wandb"):
        read_metrics(tmp_path / "run.wandb")


def test_metrics_of_openrlhf(tmp_path: Path) -> None:
    values = {
        "train/global_step": 4,
        "train/reward": 0.5,
        "train/response_length": 300.0,
        "train/response_clip_ratio": 0.1,
        "train/policy_loss": 0.01,
        "train/actor_lr": 1e-6,
        "train/kl": 0.02,
        "train/ppo_clip_ratio": 0.001,
        "train/vllm_kl": 0.0005,
    }
    (tmp_path / "history.jsonl").write_text(json.dumps(values) + "\n")
    table = read_metrics(tmp_path)
    assert (table.framework, table.rows[0][0]) == ("OpenRLHF", 4)
    assert only_row(table)["policy/behavior_kl"] == 0.0005


def test_a_log_with_a_loss_alone_is_of_no_known_framework(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss,train/time(s)\n1,0.5,2\n")
    assert read_metrics(tmp_path).framework == "unknown"


def test_rows_that_are_nothing_but_nan_are_missing_ones(tmp_path: Path) -> None:
    log = tmp_path / "history.csv"
    log.write_text("_step,train/reward,train/loss\n1,0.2,0.1\n2,NaN,NaN\n3,0.4,NaN\n")
    assert [step for step, _ in read_metrics(log).rows] == [1, 3]


def test_older_names_of_verl_are_known(tmp_path: Path) -> None:
    log = tmp_path / "old.log"
    log.write_text("step:7 - actor/entropy_loss:0.8 - critic/rewards/mean:0.3 - env/ratio_of_valid_action:0.9\n")
    assert only_row(read_metrics(log)) == {
        "policy/entropy": 0.8,
        "reward/mean": 0.3,
        "rollout/valid_action_rate": 0.9,
    }


def test_the_trainer_state_of_trl_as_file_and_as_folder(tmp_path: Path) -> None:
    history = [{**TRL, "step": 10}, {"eval_reward": 0.3, "step": 10}, {**TRL, "reward": 0.4, "step": 20}]
    summary = {"train_runtime": 100.0, "train_loss": 0.0, "step": 20}
    for name, entries in (("checkpoint-10", history[:1]), ("checkpoint-20", [*history, summary])):
        (tmp_path / name).mkdir()
        state = {"global_step": 20, "log_history": entries}
        (tmp_path / name / "trainer_state.json").write_text(json.dumps(state))
    table = read_metrics(tmp_path)
    assert "checkpoint-20" in table.path
    assert table == read_metrics(tmp_path / "checkpoint-20" / "trainer_state.json")
    assert (table.framework, [step for step, _ in table.rows]) == ("TRL", [10, 20])
    row = table.rows[0][1]
    assert row["reward/informative_groups"] == pytest.approx(0.7)
    assert row["policy/clip_share"] == 0.01
    assert row["policy/behavior_gap_mean"] == 0.01
    assert row["rollout/tool_failures"] == 0.0
    assert {"rewards/exact/mean", "eval_reward"} <= set(table.ignored)


def test_metrics_of_prime_rl_whose_trainer_and_orchestrator_write_a_line_each(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"step": 3, "time": 1.0, "train/agg/all/solver/reward/mean": 0.4, "train/agg/all/solver/solved_some": 0.6},
        {"step": 3, "time": 2.0, "entropy/all/mean": 0.5, "mismatch_kl/all/mean": 1e-4, "optim/grad_norm": 0.1},
        {"step": 4, "time": 3.0, "train/agg/all/solver/reward/mean": 0.5, "off_policy/mean": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = read_metrics(tmp_path)
    assert table.framework == "prime-rl"
    assert table.rows[0] == (
        3,
        {
            "reward/mean": 0.4,
            "reward/informative_groups": 0.6,
            "policy/entropy": 0.5,
            "policy/behavior_kl": 1e-4,
            "train/grad_norm": 0.1,
        },
    )
    assert table.rows[1][1] == {"reward/mean": 0.5, "rollout/weight_lag": 1.0}


def test_a_history_of_nemo_rl_is_not_taken_for_one_of_trl(tmp_path: Path) -> None:
    values = {
        "train/reward": 0.5,
        "train/loss": 0.2,
        "train/approx_entropy": 0.9,
        "train/grad_norm": 0.2,
        "train/lr": 1e-6,
        "train/gen_kl_error": 0.0004,
        "train/token_mult_prob_error": 1.02,
        "train/probs_ratio_max": 1.3,
        "validation/accuracy": 0.4,
    }
    (tmp_path / "history.jsonl").write_text(json.dumps({"_step": 7, **values}) + "\n")
    table = read_metrics(tmp_path)
    assert (table.framework, table.rows[0][0]) == ("NeMo-RL", 7)
    assert only_row(table) == {
        "reward/mean": 0.5,
        "policy/entropy": 0.9,
        "train/grad_norm": 0.2,
        "train/learning_rate": 1e-6,
        "policy/behavior_kl": 0.0004,
        "policy/behavior_gap_mean": pytest.approx(0.02),
        "policy/ratio_max": 1.3,
    }
    assert table.ignored == ["train/loss", "validation/accuracy"]


def test_metrics_of_skyrl(tmp_path: Path) -> None:
    values = {
        "trainer/global_step": 3,
        "reward/avg_raw_reward": 0.48,
        "reward/avg_pass_at_4": 0.66,
        "policy/policy_entropy": 1.2,
        "policy/raw_grad_norm": 0.47,
        "policy/policy_lr": 1e-6,
        "policy/ppo_clip_ratio": 0.01,
        "policy/tis/log_ratio_abs_mean": 0.02,
        "async/staleness_mean": 1.0,
        "timing/step": 292.0,
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(values) + "\n")
    table = read_metrics(tmp_path)
    assert (table.framework, table.rows[0][0]) == ("SkyRL", 3)
    assert only_row(table) == {
        "reward/mean": 0.48,
        "policy/entropy": 1.2,
        "train/grad_norm": 0.47,
        "train/learning_rate": 1e-6,
        "policy/clip_share": 0.01,
        "policy/behavior_gap_mean": 0.02,
        "rollout/weight_lag": 1.0,
    }


def test_a_history_of_wandb_with_holes(tmp_path: Path) -> None:
    history = tmp_path / "history.csv"
    history.write_text(
        "_step,_runtime,train/reward,train/entropy,train/kl\n1,5.0,0.2,0.9,\n2,9.0,,,\n3,12.0,0.4,NaN,0.1\n"
    )
    table = read_metrics(history)
    assert table.framework == "TRL"
    assert [step for step, _ in table.rows] == [1, 3]
    assert table.rows[0][1] == {"reward/mean": 0.2, "policy/entropy": 0.9}
    assert table.rows[1][1] == pytest.approx(
        {"reward/mean": 0.4, "policy/entropy": math.nan, "policy/kl_ref": 0.1}, nan_ok=True
    )


def test_a_chart_exported_from_wandb_has_the_name_of_the_run_taken_off(tmp_path: Path) -> None:
    chart = tmp_path / "chart.csv"
    names = [
        f"my - run - {name}{end}" for name in ("critic/score/mean", "actor/entropy") for end in ("", "__MIN", "__MAX")
    ]
    chart.write_text(",".join(f'"{name}"' for name in ("Step", *names)) + "\n1,0.2,0.1,0.3,0.9,0.8,1.0\n")
    assert only_row(read_metrics(chart)) == {"reward/mean": 0.2, "policy/entropy": 0.9}
    chart.write_text('"Step","a - critic/score/mean","b - critic/score/mean"\n1,0.2,0.3\n')
    with pytest.raises(DataError, match=r"one run in .*chart\.csv, got 2: a, b"):
        read_metrics(chart)


def test_tensorboard_event_files(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for version, steps in enumerate([(8, 16), (16, 24)]):
        with SummaryWriter(str(tmp_path / "tensorboard" / f"version_{version}")) as writer:
            for step in steps:
                for name, value in (("reward/mean", 0.5 * version), ("policy/entropy", 0.25), ("iteration", step / 8)):
                    writer.add_scalar(name, value, step)
    table = read_metrics(tmp_path)
    assert table.framework == "llds"
    assert [at for at, _ in table.rows] == [1, 2, 3]
    assert [row["reward/mean"] for _, row in table.rows] == [0.0, 0.5, 0.5]


def test_tensorboard_logs_of_several_runs_are_not_mixed(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for run in ("a", "b"):
        with SummaryWriter(str(tmp_path / run)) as writer:
            writer.add_scalar("train/reward", 0.5, 1)
    with pytest.raises(DataError, match=r"one run in .*, got those of 2: .*a, .*b\. Name one"):
        read_metrics(tmp_path)
    with SummaryWriter(str(tmp_path / "a" / "123.4")) as writer:  # where transformers keeps hyper-parameters
        writer.add_text("hparams", "x")
    assert only_row(read_metrics(tmp_path / "a")) == {"reward/mean": 0.5}


def test_a_version_without_metrics_is_passed_over(tmp_path: Path) -> None:
    for version, text in ((0, "iteration,reward/mean\n1,0.5\n"), (1, "")):
        (tmp_path / "csv" / f"version_{version}").mkdir(parents=True)
        (tmp_path / "csv" / f"version_{version}" / "metrics.csv").write_text(text)
    assert only_row(read_metrics(tmp_path)) == {"reward/mean": 0.5}
    (tmp_path / "csv" / "version_0" / "metrics.csv").write_text("")
    with pytest.raises(DataError, match="got none"):
        read_metrics(tmp_path)


def test_csv_of_llds_all_versions_of_a_resumed_run(tmp_path: Path) -> None:
    logs = {0: [(1, 0.1), (2, 0.2), (3, 0.3)], 2: [(3, 0.35), (4, 0.4)], 10: [(5, 0.5)]}  # went on from iteration 2
    for version, rewards in logs.items():
        folder = tmp_path / "csv" / f"version_{version}"
        folder.mkdir(parents=True)
        lines = [f"{at},{reward},{8 * at},\n,,{8 * at},0.5\n" for at, reward in rewards]
        (folder / "metrics.csv").write_text("iteration,reward/mean,step,val/em\n" + "".join(lines))
    table = read_metrics(tmp_path)
    assert [(at, row["reward/mean"]) for at, row in table.rows] == [(1, 0.1), (2, 0.2), (3, 0.35), (4, 0.4), (5, 0.5)]
    assert table.path == str(tmp_path)


def test_compact_recordings_also_zipped(tmp_path: Path) -> None:
    lines = [{"config": {"lr": 1}}, {"step": 0, "reward": 0.5, "ntok": 10.0, "dlogp_correct_seq": -2.0}, {"end": 1}]
    recording = tmp_path / "run.jsonl.gz"
    recording.write_bytes(gzip.compress("\n".join(json.dumps(line) for line in lines).encode()))
    assert only_row(read_metrics(recording)) == {
        "reward/mean": 0.5,
        "rollout/action_tokens": 10.0,
        "llds/displacement_correct": -0.2,
    }


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "rew')
    assert len(read_metrics(log).rows) == 1


def bad(name: str, content: str | bytes, message: str) -> Any:
    return pytest.param(name, content, message, id=f"{name}: {message[:30]}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        bad("a.csv", "", "metrics in .*a.csv, got none"),
        bad("a.csv", "time,cpu\n1,2\n", "known framework in .*verl: critic/score/mean.*got the columns time, cpu"),
        bad("a.jsonl", "{}\n", "got the columns"),
        bad("a.jsonl", '{"reward": 1}\nnonsense\n', "JSON in .*line 2"),
        bad("a.jsonl", "[1]\n", "one object per line"),
        bad("a.json", "{", "JSON in .*a.json"),
        bad("a.json", '{"a": 1}', "trainer_state.json"),
        bad("a.log", "hello\n", "step:N - key:value"),
        bad("a.jsonl.gz", "not zipped", "can be read"),
        bad("a.csv", b"\xff\xfe\x00", "got the columns|got none"),
        bad("a.csv.xz", lzma.compress(b"reward\n1\n"), "metrics in .*a.csv.xz, got an xz archive: unpack it"),
        bad("a.csv.zip", b"PK\x03\x04 and the rest", "got a zip archive: unpack it"),
        bad("a.csv", "reward,loss\nnan,inf\n\n", "Expected numbers in .*a.csv, got none: 1 rows"),
        bad("a.csv", "reward\n" + "1" * 200_000, "CSV file in .*a.csv, got line 1: field larger"),
        bad("a.csv", "reward\n1,2,3\n", "Expected 1 fields in each row of .*, got more in row 1"),
        bad("a.jsonl", "[" * 100_000 + "\n", "JSON in .*line 1, got: maximum recursion"),
        bad("a.jsonl", '{"reward": ' + "1" * 5_000 + "}\n", "JSON in .*line 1, got: Exceeds"),
        bad("a.ipynb", '{"cells": ' + "[" * 100_000, "Jupyter notebook"),
        bad("events.out.tfevents.1.x", b"garbage", "scalars in the event file"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        read_metrics(path)
    assert "\n" not in str(error.value)
    assert re.search(message, str(error.value)), error.value


def test_folders_without_or_with_several_candidates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_metrics(tmp_path / "nowhere")
    with pytest.raises(DataError, match="none of them"):
        read_metrics(tmp_path)
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_text("step:1 - reward:1\n")
    with pytest.raises(DataError, match=r"2 files that may be metrics \(a\.log, b\.log, \.\.\.\): name one"):
        read_metrics(tmp_path)


def test_a_step_that_stands_still_numbers_nothing(tmp_path: Path) -> None:
    """As W&B's history of a training whose trainer never counted: `train/global_step` is 0 in every row."""
    (tmp_path / "metrics.csv").write_text("train/global_step,_step,reward\n0,4,0.1\n0,5,0.2\n0,6,0.3\n")
    assert [at for at, _ in read_metrics(tmp_path).rows] == [4, 5, 6]


def test_what_a_resumed_training_printed_twice_counts_once(tmp_path: Path) -> None:
    epochs, printed = [0.1, 0.2, 0.3, 0.4, 0.3, 0.4, 0.5], tmp_path / "out.log"
    printed.write_text(
        "\n".join(str({"loss": 0.0, "reward": float(at), "epoch": one}) for at, one in enumerate(epochs))
    )
    assert [row["reward/mean"] for _, row in read_metrics(printed).rows] == [0, 1, 4, 5, 6]
