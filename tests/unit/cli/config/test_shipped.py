"""The configurations that ship with llds are found by name, and a wrong name gets the nearest right ones."""

from pathlib import Path

import pytest

from llds.cli.config.shipped import configuration_file, shipped_file, shipped_instead, shipped_names
from llds.errors import ConfigurationError

CONF = Path(__file__).parents[4] / "conf"


def test_the_names_are_those_of_the_files_in_conf() -> None:
    expected = {path.relative_to(CONF).as_posix().removesuffix(".yaml") for path in CONF.rglob("*.yaml")}
    assert set(shipped_names()) == expected
    assert {"quickstart", "ablations/lambda_0.01", "baselines/one_shot/rag"} <= expected


@pytest.mark.parametrize("word", ["llds:ablations/lambda_0.01", "llds:ablations/lambda_0.01.yaml"])
def test_a_name_leads_to_the_file_with_and_without_its_ending(word: str) -> None:
    assert Path(configuration_file(word)).samefile(CONF / "ablations" / "lambda_0.01.yaml")


@pytest.mark.parametrize("path", ["conf/quickstart.yaml", "quickstart", "/tmp/x.yaml"])  # noqa: S108 (never made)
def test_a_path_stays_a_path(path: str) -> None:
    assert configuration_file(path) == path


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("quickstrat", "llds:quickstart"),
        ("no_llds", "llds:ablations/no_llds"),
        ("ablation/no_lds", "llds:ablations/no_llds"),
        ("direct", "llds:baselines/direct or llds:baselines/one_shot/direct"),
        ("quickstart/policy", "llds:quickstart"),
    ],
)
def test_an_unknown_name_gets_the_nearest_right_ones(word: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError, match=f"got no such name. Did you mean {nearest}"):
        shipped_file(word)


def test_a_name_like_none_gets_the_command_that_lists_them() -> None:
    with pytest.raises(ConfigurationError, match=r"got no such name\. `llds configs` lists them\."):
        shipped_file("../../etc/passwd")


def test_a_path_of_a_clone_where_there_is_none_gets_the_name() -> None:
    assert shipped_instead("conf/ablations/no_kl.yaml") == "It ships with llds: -c llds:ablations/no_kl."
    assert shipped_instead("mine.yaml") == ""
