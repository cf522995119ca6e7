"""``llds report`` on real logs, and what it says about bad ones."""

from pathlib import Path

import pytest

from llds.cli import main
from tests.unit.report.test_report import make_run


def test_a_page_beside_the_run_or_where_it_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = make_run(tmp_path / "x" / "run", [0.1, 0.2]), make_run(tmp_path / "y" / "run", [0.3, 0.2])
    main(["report", str(one)])
    assert (one / "report.html").stat().st_size > 1e6
    main(["report", str(one), str(two), "-o", str(tmp_path / "both.html")])
    page = (tmp_path / "both.html").read_text()
    assert "x/run · y/run" in page  # the shortest names that tell them apart
    assert capsys.readouterr().out.splitlines() == [
        f"Report: {one / 'report.html'}",
        f"Report: {tmp_path / 'both.html'}",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "required: RUN"), (["missing"], "no such file"), (["run", "-o", "run/config.yaml/x.html"], "--output")],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run", [0.1, 0.2])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as stop:
        main(["report", *arguments])
    assert len(str(stop.value).splitlines()) == 1
