"""The progress bar of a build."""

import re
import time

from llds.retrieval.index import progress as index_progress
from llds.retrieval.index.progress import progress_bar


def test_rate_and_time_left_do_not_count_what_a_killed_build_had_done(capsys, monkeypatch):
    monkeypatch.setattr(index_progress, "_IN_A_FILE_EVERY_S", 0.01)
    with progress_bar(100_000) as advance:
        advance(90_000)
        time.sleep(0.1)
        advance(90_010)
    *_, last = capsys.readouterr().err.split("\r")
    [rate] = re.findall(r"90010/100000 .* ([\d.]+) passages/s", last)
    assert 0 < float(rate) <= 100  # 10 in at least 0.1 s


def test_a_quick_build_shows_no_bar(capsys):
    with progress_bar(10) as advance:
        advance(0)
        advance(10)
    assert capsys.readouterr().err == ""
