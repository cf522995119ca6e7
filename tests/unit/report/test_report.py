"""The report: complete, self-contained, and honest about what a run has and has not."""

import gzip
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from bokeh.plotting import figure

from llds.cli import main
from llds.errors import DataError
from llds.evaluation.settings import flatten
from llds.monitor import Diagnosis
from llds.monitor import signals as s
from llds.report import read_run, write_report
from llds.report.courses import color_of, courses
from llds.report.curves import Axis, alarm_starts, curve, phase_bands
from llds.report.events import events
from llds.report.panels import Panel, other_panels, sections
from llds.report.probes import drawn_probes, strongest_pulls
from llds.report.seeds import experiments
from llds.report.style import GAINED, LOST, styled
from llds.report.tables import comparison, config_differences
from llds.report.thinning import thinned
from llds.report.trajectories import Token, chosen_iterations, reported_questions, reported_trajectories
from tools.experiments.trajectory import most_telling, picture

INJECTION = "</script><script>alert('x')</script>"


def trajectory(**changes: Any) -> dict[str, Any]:
    turn = {
        "action": "<search> a b",
        "action_tokens": ["<search>", " a", " b"],
        "log_prob_changes": [0.0, -0.5, 0.25],
        "behavior_log_probs": [-0.1, -0.2, -0.3],
        "observation": INJECTION,
        "document_ids": ["1", "2"],
    }
    return {
        "question": INJECTION,
        "golden_answers": ["x"],
        "answer": None,
        "reward": 0.0,
        "advantage": -0.5,
        "status": "out_of_turns",
        "group_id": "0-1",
        "turns": [turn],
    } | changes


def probe(iteration: int, changes: list[float]) -> dict[str, Any]:
    """A probe's record: in each question one right and two wrong trajectories, the second of which pulls most."""

    def question(number: int, change: float) -> dict[str, Any]:
        outcomes = [(1.0, "right"), (0.0, "harmless"), (0.0, INJECTION)]
        return {
            "prompt_id": str(number),
            "question": f"{INJECTION} {number}",
            "change_per_token": change,
            "trajectories": [{"reward": reward, "turns": [[text, ""]]} for reward, text in outcomes],
            "actions": [
                {
                    "place": "first",
                    "tokens": 2,
                    "text": INJECTION,
                    "change": 2 * change,
                    "g": number,
                    "pulls": [1, -1, -3],
                }
            ],
        }

    share = sum(change < 0 for change in changes) / len(changes) if changes else None
    return {
        "iteration": iteration,
        "asked": 5,
        "settings": {"optimizer": "sgd", "learning_rate": 0.1},
        "share_negative": share,
        "is_phase_iii": share is not None and share > 0.5,
        "mean_change": sum(changes) / len(changes) if changes else None,
        "agreement_with_g": {"pairs": 3, "pearson": 0.5, "spearman": 0.4, "same_sign": 0.6} if changes else None,
        "questions": [question(number, change) for number, change in enumerate(changes)],
    }


def add_probe(run: Path, name: str, record: dict[str, Any]) -> None:
    folder = run / "probes" / name
    folder.mkdir(parents=True)
    (folder / "probe.json").write_text(json.dumps(record))


def add_incident(run: Path, name: str, decision: str) -> None:
    folder = run / "incidents" / name
    folder.mkdir(parents=True)
    (folder / "decision.md").write_text(decision)


def make_run(folder: Path, rewards: list[float], lr: float = 1e-4) -> Path:
    (folder / "csv" / "version_0").mkdir(parents=True)
    lines = ["iteration,step,reward/mean,policy/entropy,policy/log_likelihood_correct"]
    lines += [f"{i},{i},{reward},{0.5 + i / 100},{-i / 100}" for i, reward in enumerate(rewards, start=1)]
    (folder / "csv" / "version_0" / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text(
        f"model: {{optimization: {{learning_rate: {lr}}}, policy: p}}\ntrainer: {{default_root_dir: {folder}}}\n"
    )
    (folder / "trajectories").mkdir()
    for iteration in range(1, len(rewards) + 1):
        with gzip.open(folder / "trajectories" / f"iteration-{iteration:06d}.jsonl.gz", "wt") as file:
            file.write(json.dumps(trajectory()) + "\n")
    return folder


def test_one_file_without_a_network_whatever_trajectories_say(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "one", [0.1, 0.5, 0.4])
    add_probe(folder, "iteration-000001", probe(1, [-0.1, 0.2, 0.3]))
    add_incident(folder, "iteration-000002-roll-back", f"## What the ladder did\n\n- {INJECTION}\n")
    run = read_run(folder)
    path = write_report([run], tmp_path / "out" / "report.html")
    page = path.read_text()
    assert path.stat().st_size < 5e6
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)  # bokeh's own has addresses of maps
    assert not re.search(r"""(src|href)="?[^"#]|url\(|@import""", markup)
    assert not re.search(r"<script[^>]* src=", page)
    assert INJECTION not in page
    assert "&lt;/script&gt;" in page  # it is there, as text
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_runs_are_compared_by_results_and_settings(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / "a", [0.1, 0.5, 0.4])),
        read_run(make_run(tmp_path / "b", [0.3, 0.2], lr=1e-3), name="other"),
    ]
    table = comparison(runs)
    assert table.head == ["", "a", "other"]
    assert table.rows[:4] == [
        ["iterations", "3", "2"],
        ["reward, first iteration", "0.100", "0.300"],
        ["reward, best iteration", "0.500", "0.300"],
        ["reward, mean of the last 10", "0.333", "0.250"],
    ]
    assert config_differences(runs).rows == [["model.optimization.learning_rate", "0.0001", "0.001"]]
    page = write_report(runs, tmp_path / "report.html").read_text()
    assert "model.optimization.learning_rate" in page


@pytest.mark.slow
def test_runs_that_differ_in_their_seeds_are_one_row_that_can_be_copied(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, rewards) for name, rewards in {"a": [0.1, 0.5], "b": [0.3, 0.7, 0.9]}.items()]
    folders += [make_run(tmp_path / "c", [0.2], lr=1e-3)]
    for seed, folder in enumerate(folders):
        with (folder / "config.yaml").open("a") as file:
            file.write(f"seed_everything: {seed}\n")
    runs = [read_run(folder) for folder in folders]
    made = experiments(runs)
    assert made is not None
    assert made.table.head[:3] == ["optimization.learning_rate", "seeds", "reward, last 10"]
    assert [row[:4] for row in made.table.rows] == [
        ["0.0001", "0, 1", "0.467 ± 2.118", "0.700 ± 2.541"],
        ["0.001", "2", "0.200", "0.200"],
    ]
    assert "Not equally long (last iteration: a 2, b 3)" in made.notes[-1]
    assert any("tool calls, last 10 is the mean of 0 of 2 runs (a, b)" in note for note in made.notes)
    page = write_report(runs, tmp_path / "report.html").read_text()
    assert r"0.0001 &amp; 0, 1 &amp; $0.467 \pm 2.118$" in page
    assert experiments(runs[1:]) is None


def test_runs_that_differ_in_their_seeds_are_one_line_with_a_band(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, rewards) for name, rewards in {"a": [0.1, 0.5], "b": [0.3, 0.7, 0.9]}.items()]
    folders += [make_run(tmp_path / "c", [0.2], lr=1e-3), make_run(tmp_path / "d", [0.1, 0.5])]
    for seed, folder in zip((0, 1, 2, 0), folders, strict=True):
        with (folder / "config.yaml").open("a") as file:
            file.write(f"seed_everything: {seed}\n")
    runs = [read_run(folder) for folder in folders]
    both, alone = courses(runs)
    assert both.name == "optimization.learning_rate 0.0001 (2 seeds)"
    xs, means, band = both.series("reward/mean")
    assert xs == [1, 2]  # a has no third iteration
    late = {"x": 1.0}  # a signal that not every run has in every iteration
    both.runs[0].table.rows[1][1].update(late)
    both.runs[1].table.rows[2][1].update(late)
    assert both.series("x") == ([2], [1.0], {2: (1.0, 1.0)})
    assert means == pytest.approx([0.2, 0.6])
    assert band == {1: (0.1, 0.3), 2: (0.5, 0.7)}
    assert alone.name == "c"
    assert alone.series("reward/mean") == ([1], [0.2], {})
    colors = [color_of(run, [both, alone]) for run in runs]
    assert colors == [both.color, both.color, alone.color, both.color]  # d is a again
    plot = curve(Panel("Reward", "", {"reward/mean": "reward"}), [both, alone], Axis.over(runs, [both, alone]), 10)
    highs = [one.data_source.data["high"] for one in plot.renderers if "high" in one.data_source.data]
    assert [list(high) for high in highs] == [pytest.approx([0.3, 0.7])]


def test_a_page_about_several_runs_is_one_of_its_own(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name, [0.1]) for name in ("a", "b c"))
    (first / "report.html").write_text("a's")
    main(["report", str(first), str(second)])
    assert (first / "report.html").read_text() == "a's"
    assert "b c" in (tmp_path / "report-a-b-c.html").read_text()


def test_a_log_of_another_framework_is_enough(tmp_path: Path) -> None:
    log = tmp_path / "trainer_state.json"
    log.write_text(json.dumps({"log_history": [{"step": i, "reward": 0.5, "entropy": 1.0} for i in range(8)]}))
    page = write_report([read_run(log)], tmp_path / "report.html").read_text()
    assert "has no config.yaml" in page
    assert "<h2>Trajectories</h2>" not in page


def test_a_run_of_three_iterations_is_too_short_to_say_and_not_healthy(tmp_path: Path) -> None:
    short = read_run(make_run(tmp_path / "short", [0.5, 0.6, 0.7]))
    assert short.phase == "too short to say"
    page = write_report([short], tmp_path / "page.html").read_text()
    verdict = page[page.index('<section id="verdict">') :]
    assert "<b>too short to say</b>" in verdict
    assert "too short to say: 3 rows" in verdict
    assert ["phase at the end", "too short to say"] in comparison([short]).rows
    assert read_run(make_run(tmp_path / "long", [0.5] * 14)).phase != short.phase


def test_phases_become_bands_without_gaps() -> None:
    phases = ["healthy", "healthy", "decay", "decay", "healthy"]
    diagnoses = [Diagnosis(i, phase) for i, phase in enumerate(phases)]  # type: ignore[arg-type]
    assert phase_bands(diagnoses) == [("healthy", 0, 2), ("decay", 2, 4), ("healthy", 4, 4)]


def test_an_alarm_is_marked_where_it_begins() -> None:
    levels = ["alarm", "alarm", "none", "warning", "alarm"]
    diagnoses = [Diagnosis(i, level=level) for i, level in enumerate(levels)]  # type: ignore[arg-type]
    assert alarm_starts(diagnoses) == [0, 4]


def test_tokens_are_colored_by_what_they_lost_and_gained(tmp_path: Path) -> None:
    [[question]] = reported_trajectories(read_run(make_run(tmp_path / "run", [0.1])), [], 10**6).values()
    [one] = question.trajectories
    tokens = one.turns[0].tokens
    assert [token.text for token in tokens] == ["<search>", " a", " b"]
    assert [token.style for token in tokens] == ["", "l5", "g3"]  # 7 sqrt(0.5) = 4.9, 7 sqrt(0.25) = 3.5
    assert one.change == pytest.approx(-0.25)
    assert Token("x", -5.0, 0.0).style == Token("x", -1.0, 0.0).style == "l7"
    assert Token("x", -1.0, 0.0, advantage=0.5).style == "l7 d"  # displaced
    assert Token("x", 1.0, 0.0, advantage=0.5).style == "g7"
    assert Token("x", -1e-6, 0.0, advantage=0.5).style == ""  # not to be seen


def test_trajectories_that_were_not_measured_have_no_colors(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.1])
    record = trajectory(advantage=None)
    del record["turns"][0]["log_prob_changes"], record["turns"][0]["action_tokens"]
    with gzip.open(folder / "trajectories" / "iteration-000001.jsonl.gz", "wt") as file:
        file.write(json.dumps(record) + "\n")
    [[question]] = reported_trajectories(read_run(folder), [], 10**6).values()
    [one] = question.trajectories
    assert [token.text for token in one.turns[0].tokens] == ["<search> a b"]
    assert one.change is None


def test_trajectories_take_no_more_room_than_they_have(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.1, 0.2])
    turns = [[trajectory()["turns"][0] | {"observation": "x" * (3000 + number)}] for number in range(20)]
    for path in (folder / "trajectories").iterdir():
        with gzip.open(path, "wt") as file:
            for number in range(20):
                file.write(json.dumps(trajectory(turns=turns[number], group_id=str(number // 4))) + "\n")
    run = read_run(folder)
    count = {
        room: [sum(len(one.trajectories) for one in shown) for shown in reported_trajectories(run, [], room).values()]
        for room in (10**6, 14_000, 0)
    }
    assert count == {10**6: [16, 16], 14_000: [2, 2], 0: [0, 0]}


def test_equal_trajectories_are_shown_once_and_counted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.1])
    with gzip.open(folder / "trajectories" / "iteration-000001.jsonl.gz", "wt") as file:
        for reward in (0.0, 1.0, 1.0):
            file.write(json.dumps(trajectory(reward=reward, is_correct=reward > 0)) + "\n")
    [[question]] = reported_trajectories(read_run(folder), [], 10**6).values()
    assert [(one.reward, one.count) for one in question.trajectories] == [(1.0, 2), (0.0, 1)]
    assert (question.count, question.right) == (3, 2)


@pytest.mark.parametrize(
    ("read", "shown"),
    [
        ({"kind": "tool", "name": "search"}, ""),
        (
            {"kind": "tool", "calls": [{"name": "buy", "arguments": {"item": "tea", "count": 2}}]},
            'buy(item="tea", count=2)',
        ),
        ({"kind": "invalid", "reason": "no opening tag"}, "not valid: no opening tag"),
        ({"kind": "invalid"}, "not valid"),
    ],
)
def test_an_action_is_shown_as_it_was_understood(read: dict[str, Any], shown: str) -> None:
    record = trajectory()
    record["turns"] = [record["turns"][0] | read]
    [question] = reported_questions([record])
    assert question.trajectories[0].turns[0].understood == shown


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({"reward": 0.67, "is_correct": False}, 0),
        ({"reward": -1.0, "is_correct": True}, 1),
        ({"reward": 1.0, "answer": "x"}, 1),  # a log of before
        ({"reward": 0.67, "answer": "y"}, 0),
    ],
)
def test_right_is_what_the_log_says_and_not_a_reward_above_0(
    tmp_path: Path, changes: dict[str, Any], right: int
) -> None:
    folder = make_run(tmp_path / "run", [0.1])
    with gzip.open(folder / "trajectories" / "iteration-000001.jsonl.gz", "wt") as file:
        file.write(json.dumps(trajectory(**changes)) + "\n")
    [[question]] = reported_trajectories(read_run(folder), [], 10**6).values()
    assert question.right == right


def test_every_signal_has_a_place_and_families_share_one() -> None:
    logged = [signal.name for signal in s.SIGNALS]
    panels = [panel for section in sections(logged) for panel in section.panels] + other_panels(logged)
    assert {name for panel in panels for name in panel.lines} == set(logged) - {s.BACK_TO}  # a vertical line
    [entropy] = [panel for panel in panels if "policy/entropy_first" in panel.lines]
    assert set(entropy.lines.values()) >= {"first", "later", "answer"}
    assert sections([]) == other_panels([]) == []


def test_long_lines_keep_their_spikes() -> None:
    values = [0.0] * 5000
    values[1234], values[4321] = 7.0, -3.0
    xs, ys = thinned(range(5000), values, 100)
    assert len(xs) <= 100
    assert (xs[0], xs[-1]) == (0, 4999)
    assert dict(zip(xs, ys, strict=True))[1234] == 7.0
    assert dict(zip(xs, ys, strict=True))[4321] == -3.0
    assert xs == sorted(set(xs))
    assert thinned([1, 2], [0.5, 0.6]) == ([1, 2], [0.5, 0.6])


def test_probes_are_summed_up_and_the_strongest_pull_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.1])
    for iteration in range(7):
        add_probe(folder, f"iteration-{iteration:06d}", probe(iteration, [-0.1, -0.2, 0.6]))
    add_probe(folder, "iteration-000006-sgd", probe(6, []))
    probes = read_run(folder).probes
    assert [one.name for one in drawn_probes(probes)] == [f"iteration {number}" for number in (0, 2, 4, 6)]
    assert (
        probes[0].summary
        == "67% of 3 questions lose likelihood; above 50%, as in phase III; mean +0.1000 nats per token"
    )
    assert (probes[-1].name, probes[-1].summary) == (
        "iteration 6, sgd",
        "none of 5 questions had right and wrong answers",
    )
    pull = strongest_pulls(probes[0])[0]
    assert (pull.g, pull.wrong, pull.share) == (2, [INJECTION], 0.75)


def test_what_the_ladder_did_is_an_event(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.1, 0.2, 0.3])
    decision = "# x\n\n## What the ladder did\n\n- cut the rate\n- saved\n\n## Advice\n\n- none\n"
    add_incident(folder, "iteration-000002-cut-learning-rate", decision)
    add_incident(folder, "iteration-000003-warn", "")
    run = read_run(folder)
    assert [(one.iteration, one.kind, one.words) for one in events(run)] == [
        (2, "cut learning rate", "cut the rate; saved")
    ]
    assert "cut the rate; saved" in write_report([run], tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_long_run_with_all_signals_keeps_the_page_small(tmp_path: Path) -> None:
    names = [signal.name for signal in s.SIGNALS]
    lines = ["iteration," + ",".join(names)]
    lines += [f"{i}," + ",".join(str((i * 7 + n) % 11 / 11) for n in range(len(names))) for i in range(1, 650)]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    page = write_report([read_run(tmp_path / "metrics.csv")], tmp_path / "report.html")
    assert page.stat().st_size < 2.5e6  # trajectories may add 1.4, two more runs 0.6 each


def test_first_last_and_alarming_iterations_are_shown() -> None:
    assert chosen_iterations(0, []) == []
    assert chosen_iterations(3, []) == [0, 1, 2]
    chosen = chosen_iterations(100, [41, 200])
    assert {0, 41, 99} <= set(chosen)
    assert len(chosen) <= 8


def test_nested_settings_become_dotted_keys() -> None:
    config = {"a": {"b": [1, 2], "c": [{"d": None}]}, "e": {}}
    assert flatten(config) == {"a.b": [1, 2], "a.c.0.d": None, "e": {}}


def test_a_log_that_counts_tokens_has_a_report(tmp_path: Path) -> None:
    log = tmp_path / "a.csv"
    log.write_text("step,reward\n" + "".join(f"{2**31 + 1000 * number},0.{number}\n" for number in range(9)))
    assert write_report([read_run(log)], tmp_path / "report.html").stat().st_size > 10_000


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.1])
    (folder / "trajectories" / "iteration-000001.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="iteration-000001"):
        reported_trajectories(read_run(folder), [], 10**6)
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(DataError, match=r"config\.yaml"):
        read_run(folder)
    with pytest.raises(DataError, match="no such"):
        read_run(tmp_path / "missing")


def test_a_title_has_as_many_letters_in_a_line_as_a_phone_has_room_for() -> None:
    logged = [signal.name for signal in s.SIGNALS]
    assert max(len(panel.title) for section in sections(logged) for panel in section.panels) <= 38
    plot = figure()
    styled(plot, "a probe with a long name: what G foretells, and what was measured", "", "")
    lines = plot.title.text.split("\n")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 38


def test_the_picture_of_a_trajectory_has_the_tokens_that_moved_in_their_colors(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "one", [0.1])
    right = {"answer": "x", "reward": 1.0, "is_correct": True, "advantage": 0.5}
    records = [trajectory(is_correct=False), trajectory(**right), trajectory(**right, group_id="0-2")]
    file = folder / "trajectories" / "iteration-000001.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    svg = picture(*most_telling(read_run(folder), None))
    root = ElementTree.fromstring(svg)  # noqa: S314 (ours)
    texts = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "right, advantage +0.50; log-likelihood changed by -0.25 nats" in texts
    assert texts.count("<search>") == texts.count("2 passages came back") == 2
    assert svg.count(f'fill="{LOST}" fill-opacity="0.54"') == svg.count(f'fill="{GAINED}" fill-opacity="0.32"') == 2
    assert svg.count("stroke-width") == 2, "one token lost against its advantage; one is in the legend"
    with pytest.raises(SystemExit, match="question with right and wrong trajectories"):
        most_telling(read_run(make_run(tmp_path / "two", [0.1])), None)
