"""A flag that adds a profile to a training, whatever files say; loggers that begin when a run begins."""

from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from llds.callbacks import ExportPolicy, IterationProfile
from llds.cli import main
from llds.cli.training.command import build_cli
from llds.cli.training.late_loggers import LateLoggers
from llds.cli.training.profile import with_profile
from llds.errors import ConfigurationError
from tests.runs import answers, by_iteration, make_run, scripted

ROOT = Path(__file__).parents[4]
QUICKSTART = ("-c", str(ROOT / "conf" / "quickstart.yaml"))


def profiles(*args: str) -> list[IterationProfile]:
    """The profiles of a training with these arguments."""
    callbacks: list[Callback] = build_cli([*args], run=False).trainer.callbacks  # type: ignore[attr-defined]
    return [one for one in callbacks if isinstance(one, IterationProfile)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "count"),
    [
        (QUICKSTART, 0),
        (("--profile", *QUICKSTART), 1),
        (("FILE",), 1),
        (("FILE", "--profile"), 1),
        (("FILE", "--no_profile"), 0),
    ],
)
def test_the_flag_and_the_file_are_the_same_and_the_last_word_counts(
    args: tuple[str, ...], count: int, tmp_path: Path
) -> None:
    (tmp_path / "profile.yaml").write_text("profile: true\n")
    if args[0] == "FILE":
        args = (*QUICKSTART, "-c", str(tmp_path / "profile.yaml"), *args[1:])
    assert len(profiles(*args)) == count


@pytest.mark.slow
def test_a_profile_that_the_configuration_holds_keeps_its_settings(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("trainer: {callbacks+: [{class_path: llds.callbacks.IterationProfile, init_args: {warmup: 7}}]}\n")
    [profile] = profiles(*QUICKSTART, "-c", str(own), "--profile")
    assert profile.warmup == 7


def test_callbacks_are_a_list_or_one_or_none_and_stay_in_front() -> None:
    export = ExportPolicy()
    for given, before in ((None, []), (export, [export]), ([export], [export])):
        *front, last = with_profile(given)
        assert front == before
        assert isinstance(last, IterationProfile)


@pytest.mark.slow
def test_what_is_printed_is_the_flag_and_reads_back_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = tmp_path / "printed.yaml"
    for word, said in (("--profile", True), ("--no_profile", False)):
        with pytest.raises(SystemExit):
            main(["fit", *QUICKSTART, word, "--print_config"])
        printed.write_text(capsys.readouterr().out)
        values = yaml.safe_load(printed.read_text())
        assert values["profile"] is said
        assert "IterationProfile" not in printed.read_text()
        for command in ("fit", "test"):
            with pytest.raises(SystemExit):
                main([command, "-c", str(printed), "--print_config"])
            assert yaml.safe_load(capsys.readouterr().out)["profile"] is said


class Refusal(Callback):
    """Refuses while the run is set up."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse."""
        raise ConfigurationError("no")


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_run_that_is_refused_leaves_nothing(tmp_path: Path, stage: str) -> None:
    run = make_run(tmp_path, Refusal(), sampler=scripted(answers))
    run.trainer.callbacks.insert(0, LateLoggers(run.trainer))
    with pytest.raises(ConfigurationError):
        getattr(run.trainer, stage)(run.module, run.data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_that_is_not_refused_is_logged_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path, sampler=scripted(answers))
    run.trainer.callbacks.insert(0, LateLoggers(run.trainer))
    run.fit()
    assert len(by_iteration(tmp_path)) == 2


def test_an_evaluation_is_logged(tmp_path: Path) -> None:
    run = make_run(tmp_path, sampler=scripted(answers))
    run.trainer.callbacks.insert(0, LateLoggers(run.trainer))
    run.trainer.test(run.module, run.data, verbose=False)
    assert "test/exact_match" in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()
