"""Builds of real passages that are killed at many moments or run out of disk, and the script that starts them."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from llds.cli import main
from llds.errors import RetrievalError
from llds.retrieval.index import progress as index_progress
from tests.chroma_servers import RunningChroma
from tests.index_builds import ROOT, check_holds_the_corpus, kill_after, make_retriever, start_build

SHARED_CORPUS = ROOT.parent / "shared/data/corpus/wiki40k.jsonl.gz"
ROWS = 6_000
MOMENTS = [
    ("check", 1, 0.1),
    ("embed", 2, 0.0),
    ("upsert", 2, 0.0),
    ("upsert", 2, 0.05),
    ("upsert", 3, 0.2),
    ("sync", 1, 0.0),
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED_CORPUS.exists(), reason=f"needs {SHARED_CORPUS}"),
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Real passages, some of them twice."""
    with gzip.open(SHARED_CORPUS, "rt", encoding="utf-8") as file:
        lines = list(islice(file, ROWS))
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join([*lines, *lines[:100]]), encoding="utf-8")
    return path


@pytest.mark.parametrize("on", ["folder", pytest.param("server", marks=pytest.mark.nightly)])
def test_a_build_that_is_killed_at_many_moments_loses_and_doubles_nothing(
    corpus: Path, tmp_path: Path, on: str
) -> None:
    chroma = RunningChroma(tmp_path / "chroma") if on == "server" else None
    place = chroma.url if chroma else str(tmp_path / "index")
    try:
        for number, (step, occurrence, delay_s) in enumerate(MOMENTS if chroma is None else MOMENTS[1::2]):
            build = start_build(place, corpus, sync_rows=1_000)
            said = kill_after(build, step, occurrence, delay_s)
            assert build.returncode == -signal.SIGKILL, said
            if chroma and number:  # the server, too
                chroma.kill()
                chroma.start()
        with start_build(place, corpus, sync_rows=1_000) as last:
            output = last.communicate(timeout=120)[0]
        assert "100 more repeat an earlier one" in output
        with make_retriever(place, corpus, exact_up_to=0) as retriever:
            check_holds_the_corpus(retriever._opened().collection, corpus)
            assert retriever.describe()["rows"] == ROWS
    finally:
        if chroma:
            chroma.kill()


def test_a_graph_that_a_kill_tore_is_noticed_and_built_anew(corpus: Path, tmp_path: Path) -> None:
    kill_after(start_build(str(tmp_path / "index"), corpus, sync_rows=1_000), "embed", 4)
    [graph] = (tmp_path / ".index.building").glob("*/data_level0.bin")
    os.truncate(graph, graph.stat().st_size // 2)
    with start_build(str(tmp_path / "index"), corpus) as again:
        assert "Deleting a half-built index that was damaged" in again.communicate(timeout=120)[0]
    with make_retriever(str(tmp_path / "index"), corpus, exact_up_to=0) as retriever:
        check_holds_the_corpus(retriever._opened().collection, corpus)


def test_a_build_of_another_corpus_is_not_gone_on_with(corpus: Path, tmp_path: Path) -> None:
    kill_after(start_build(str(tmp_path / "index"), corpus), "embed", 4)
    lines = corpus.read_text(encoding="utf-8").splitlines()[:1_500]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    with start_build(str(tmp_path / "index"), corpus) as again:
        assert "Deleting a half-built index of another corpus" in again.communicate(timeout=120)[0]
    with make_retriever(str(tmp_path / "index"), corpus, exact_up_to=0) as retriever:
        check_holds_the_corpus(retriever._opened().collection, corpus)


@pytest.mark.nightly
def test_a_server_that_dies_during_a_build_is_one_message_and_the_build_goes_on(corpus: Path, tmp_path: Path) -> None:
    chroma = RunningChroma(tmp_path / "chroma")
    try:
        build = start_build(chroma.url, corpus, sleep_s=0.2)
        assert build.stdout is not None
        for _ in range(2):
            assert any(line == "upsert\n" for line in build.stdout)
        chroma.kill()
        output = build.communicate(timeout=60)[0]
        assert build.returncode == 1
        assert "failed: Expected the Chroma server at http" in output
        assert "Traceback" not in output
        chroma.start()
        with start_build(chroma.url, corpus) as again:
            again.communicate(timeout=120)
        with make_retriever(chroma.url, corpus, exact_up_to=0) as retriever:
            check_holds_the_corpus(retriever._opened().collection, corpus)
    finally:
        chroma.kill()


FILL_THE_DISK = """
import os, sys
from pathlib import Path
from llds.errors import RetrievalError
from llds.retrieval.index import progress as index_progress
from tests.index_builds import AnnouncingEmbedder, check_holds_the_corpus, make_retriever

room, corpus, batch, left = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

class Filling(AnnouncingEmbedder):
    batches = 0
    def embed_passages(self, passages):
        self.batches += 1
        if self.batches == batch:
            with (room / "ballast").open("wb") as file:
                file.write(bytes(os.statvfs(room).f_bavail * os.statvfs(room).f_frsize - left))
        return super().embed_passages(passages)

try:
    make_retriever(str(room / "index"), corpus, embedder=Filling(0)).open()
except RetrievalError as error:
    print("refused:", error)
assert not (room / "index").exists()
(room / "ballast").unlink()
with make_retriever(str(room / "index"), corpus, exact_up_to=0) as retriever:
    check_holds_the_corpus(retriever._opened().collection, corpus)
print("whole")
"""


def can_mount() -> bool:
    """Whether a small disk can be made here."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not can_mount(), reason="needs `unshare -rm` and mount, to make a small disk")
@pytest.mark.parametrize(("batch", "left"), [pytest.param(1, 20_000, marks=pytest.mark.nightly), (6, 2_000_000)])
def test_a_full_disk_is_one_message_and_the_build_goes_on_when_there_is_room(
    corpus: Path, tmp_path: Path, batch: int, left: int
) -> None:
    room = tmp_path / "room"
    room.mkdir()
    inside = f"mount -t tmpfs -o size=50m none {room} && exec {sys.executable} - {room} {corpus} {batch} {left}"
    command = ["unshare", "-rm", "sh", "-c", inside]
    done = subprocess.run(
        command, cwd=ROOT, input=FILL_THE_DISK, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    refusals = [line for line in done.stdout.splitlines() if line.startswith("refused")]
    assert len(refusals) == 1
    assert "got a full disk" in refusals[0]
    assert "goes on where it stopped" in refusals[0]
    assert done.stdout.endswith("whole\n")


def test_the_script_builds_verifies_and_says_how_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with gzip.open(SHARED_CORPUS, "rt", encoding="utf-8") as file:
        (tmp_path / "corpus.jsonl").write_text("".join(islice(file, 1_500)))
    keys = ["-c", str(ROOT / "conf/quickstart.yaml"), "--retrieval.retriever.path", str(tmp_path / "index")]
    keys += ["--retrieval.retriever.corpus", str(tmp_path / "corpus.jsonl")]
    main(["index", *keys, "--dry_run"])
    assert not (tmp_path / "index").exists()
    assert "1,500 passages.\n" in capsys.readouterr().out
    command = [sys.executable, "-m", "llds", "index", *keys]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    for said in ("Disk: the index will need", "Memory: building the index will need", "Built the index", "rows: 1500"):
        assert said in done.stdout
    main(["index", *keys])
    second = capsys.readouterr().out
    assert "There is the index" in second
    monkeypatch.setattr(index_progress, "_IN_A_FILE_EVERY_S", 0.0)
    main(["index", *keys, "--overwrite"])
    third, bar = capsys.readouterr()
    assert "Built the index" in third
    assert re.search(r"1000/1500 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ passages/s\]", bar)  # time gone, time left, rate
    [fingerprint] = [line for line in done.stdout.splitlines() if line.startswith("fingerprint: ")]
    assert fingerprint in second
    assert fingerprint in third


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--retrieval.retriever.corpus", "nowhere.jsonl"], "Expected a corpus file, got nowhere.jsonl"),
        (["--retrieval.retriever.corpus", "bad.jsonl"], "bad.jsonl:2: Expected the fields `contents`"),
        (["--retrieval.retriever.corpus", "twice.jsonl"], "twice.jsonl:3: Expected every `id` once, got '0' again"),
        (["--retrieval.retriever.corpus", "pointer.jsonl"], "a pointer of Git LFS"),
        (["--retrieval.retriever.corpuss", "x"], "corpuss"),
        (["--retrieval.retriever.path", "bad.jsonl/index"], "Expected a folder that can be written"),
        (["--retrieval.retriever.path", "null", "--retrieval.retriever.server.url", "http://127.0.0.1:9"], "Start it"),
        (["--retrieval.retriever", "null"], "Expected `retrieval.retriever` to be set, got null"),
    ],
)
def test_the_script_refuses_in_one_line_and_makes_nothing(
    tmp_path: Path, args: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"id": "0", "contents": "A text."}
    files = {"bad": [good, {"id": "1"}], "twice": [good, {**good, "id": "1"}, {**good, "contents": "B."}]}
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "pointer.jsonl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as refusal:
        main(["index", "-c", str(ROOT / "conf/quickstart.yaml"), "--retrieval.retriever.path", "index", *args])
    assert isinstance(refusal.value.code, str)  # printed, with exit status 1
    assert message in refusal.value.code
    assert "\n" not in refusal.value.code
    assert {path.name for path in tmp_path.iterdir()} - before <= {".index.lock"}


@pytest.mark.parametrize("name", ["thesis.txt", "chroma.sqlite3"])
def test_a_folder_that_is_no_index_is_not_deleted(name: str, tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / name).write_text("mine")
    with pytest.raises(RetrievalError, match=r"got another folder .*\. Nothing was deleted"):
        make_retriever(str(tmp_path / "index"), corpus).remove()
    assert (tmp_path / "index" / name).read_text() == "mine"
