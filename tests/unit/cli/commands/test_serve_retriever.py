"""What ``llds serve-retriever`` refuses, in one sentence; that it serves is shown in tests/integration."""

from pathlib import Path

import pytest

from llds.cli import main

QUICKSTART = str(Path(__file__).parents[4] / "conf" / "quickstart.yaml")
HTTP = ("--retrieval.retriever.class_path", "llds.retrieval.HTTPRetriever")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`retrieval.retriever`"),
        (["-c", "nowhere.yaml"], "nowhere.yaml"),
        (["-c", QUICKSTART, "--portt", "1"], "`port`"),
        (["-c", QUICKSTART, "--port", "x"], "`port`"),
        (["-c", QUICKSTART, "--port", "99999"], "`port`"),
        (["-c", QUICKSTART, "--retrieval.retriever.corpuss", "x"], "`retrieval.retriever.corpus`"),
        (["-c", QUICKSTART, "--top_k", "1000"], "`top_k`"),
        (["-c", QUICKSTART, "--token_file", "nowhere"], "`token_file`"),
        (["-c", QUICKSTART, "--port", "0", "--retrieval.retriever.corpus", "nowhere.jsonl"], "nowhere.jsonl"),
        ([*HTTP, "--retrieval.retriever.url", "x"], "init_args.url"),
        (["--port", "0", *HTTP, "--retrieval.retriever.url", "http://127.0.0.1:9"], "init_args.url"),
    ],
    ids=str,
)
def test_what_cannot_work_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["serve-retriever", *arguments])
    text = str(stopped.value.code)
    assert text.startswith("llds: Expected ")
    assert message in text
    assert "\n" not in text


def test_a_value_of_another_part_of_the_file_is_found(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"trainer: {{default_root_dir: {tmp_path}/nowhere}}\n"
        "retrieval:\n  retriever:\n    class_path: llds.retrieval.ChromaRetriever\n"
        "    init_args: {path: '${trainer.default_root_dir}/index', corpus: '${trainer.default_root_dir}.jsonl'}\n"
    )
    with pytest.raises(SystemExit, match=r"got .*nowhere\.jsonl"):
        main(["serve-retriever", "-c", str(config), "--port", "0"])


def test_an_address_that_others_reach_without_a_token_is_warned_about(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    corpus = ("--retrieval.retriever.corpus", str(tmp_path / "nowhere.jsonl"))
    for host, is_warned in (("0.0.0.0", True), ("127.0.0.1", False)):  # noqa: S104
        with pytest.raises(SystemExit, match="nowhere"):
            main(["serve-retriever", "-c", QUICKSTART, "--port", "0", "--host", host, *corpus])
        assert ("`token_file`" in capsys.readouterr().err) == is_warned
