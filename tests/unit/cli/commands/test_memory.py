"""``llds memory``: the table, and what is refused. Its formulas are tested in tests/unit/strategies."""

from pathlib import Path

import pytest

from llds.cli import main


def test_a_model_by_its_size_gets_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    main(["memory", "3B", "7B", "--gpus", "32", "--offload_optimizer"])
    rows = {" ".join(line.split()[:-2]): line.split()[-2:] for line in capsys.readouterr().out.splitlines() if line}
    assert rows["parameters"] == ["3.09B", "7.62B"]
    assert rows["optimizer"] == ["0.0", "0.0"]
    assert rows["main memory, all machines"] == ["46.0", "113.5"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "got nowhere, which has none"),
        (["3B", "--gpus", "0"], "Expected `--gpus` >= 1, got 0"),
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
