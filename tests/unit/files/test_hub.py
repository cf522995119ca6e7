"""What is named by its repository on a hub: downloaded once, pinned, resumed, and refused in words."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

from llds.errors import ConfigurationError
from llds.files import model_folder, with_pins, write_manifest
from llds.files.hub import recall_pins, snapshot, split_name
from llds.files.hub_push import push_folder
from tests.hub import TOKEN, Hub, Repository, serving_hub, use_hub

TINY = {
    "config.json": b'{"model_type": "qwen2"}',
    "model.safetensors": bytes(range(256)) * 40,
    "tokenizer.json": b"{}",
    "modeling_own.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "original/model.safetensors": b"again",
}
WANTED = {"config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    repositories = {
        ("model", "Org/Tiny"): Repository(dict(TINY)),
        ("model", "Org/Gated"): Repository({}, is_gated=True),
        ("model", "Org/Pickled"): Repository({"config.json": b"{}", "pytorch_model.bin": b"pickle"}),
        ("dataset", "Org/Questions"): Repository({"data/train.jsonl": b"{}\n", "data/test.jsonl": b"{}\n"}),
    }
    with serving_hub(repositories) as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "cache")
        yield hub


def test_names_are_told_from_paths() -> None:
    assert split_name("Qwen/Qwen3-0.6B") == ("Qwen/Qwen3-0.6B", None)
    assert split_name("Qwen/Qwen3-0.6B@refs/pr/1") == ("Qwen/Qwen3-0.6B", "refs/pr/1")
    for path in ("models/a/b", "/models/a", "./a/b", "../a", "~/a", "a", "a/", "llds:quickstart/policy", r"a\b"):
        assert split_name(path) is None, path


def test_a_model_by_name_is_downloaded_once_without_code_and_pickles(served: Hub) -> None:
    folder = model_folder("Org/Tiny", "model.policy")
    assert {path.name for path in folder.rglob("*")} == WANTED
    assert folder.name == served.repositories["model", "Org/Tiny"].commit
    assert (folder / "model.safetensors").read_bytes() == TINY["model.safetensors"]
    asked = len(served.requests)
    assert model_folder("Org/Tiny", "model.policy") == folder
    assert len(served.requests) == asked, "what is pinned and in the cache needs no network"


def test_a_name_means_one_commit_for_the_whole_run_and_for_its_resumption(served: Hub) -> None:
    first = model_folder("Org/Tiny@main", "model.policy")
    served.repositories["model", "Org/Tiny"].files["config.json"] = b'{"model_type": "llama"}'
    assert model_folder("Org/Tiny@main", "model.policy") == first
    saved = with_pins({"policy": "Org/Tiny@main", "others": ["Org/Tiny", 3]})
    assert saved == {"policy": f"Org/Tiny@{first.name}", "others": ["Org/Tiny", 3]}
    recall_pins({"policy": saved["policy"], "data": f"hf://datasets/Org/Q@{first.name}/train"})
    assert model_folder("Org/Tiny", "model.policy") == first
    assert with_pins("hf://datasets/Org/Q/train") == f"hf://datasets/Org/Q@{first.name}/train"


def test_a_folder_stays_a_folder(served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Org" / "Tiny").mkdir(parents=True)
    assert model_folder("Org/Tiny", "model.policy") == Path("Org/Tiny")
    assert model_folder("Org/Tiny/deeper", "model.policy") == Path("Org/Tiny/deeper")
    assert not served.requests


def test_files_of_a_data_set_are_chosen_by_pattern(served: Hub) -> None:
    folder = snapshot("Org/Questions", None, "dataset", "data.train", ["data/train*"], [])
    assert [path.name for path in folder.rglob("*.jsonl")] == ["train.jsonl"]


def do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's client, and no other thread, not sleep between two tries."""
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", SimpleNamespace(**vars(time) | {"sleep": lambda _: None}))


def test_a_connection_that_breaks_is_taken_up_where_it_broke(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 512)
    do_not_wait(monkeypatch)
    served.breaks["model.safetensors"] = 2
    folder = model_folder("Org/Tiny", "model.policy")
    assert (folder / "model.safetensors").read_bytes() == TINY["model.safetensors"]
    ranges = [asked for path, asked in served.downloads if path == "model.safetensors"]
    assert ranges == [None, "bytes=5120-", "bytes=7680-"]


def test_a_download_that_failed_goes_on_with_what_is_missing(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    do_not_wait(monkeypatch)
    served.failing.add("model.safetensors")
    with pytest.raises(ConfigurationError, match=r"Server error '500 .* what has arrived is kept\."):
        model_folder("Org/Tiny", "model.policy")
    served.failing.clear()
    served.downloads.clear()
    assert {path.name for path in model_folder("Org/Tiny", "model.policy").iterdir()} == WANTED
    assert "model.safetensors" in dict(served.downloads)
    assert len(served.downloads) < len(WANTED)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Org/Nothing", "no folder here, and http.* has no such model"),
        ("Org/Gated", "gated: ask for access at http.*/Org/Gated, then log in with `hf auth login`"),
        ("Org/Tiny@v9", "the model has no such revision"),
        ("Org/Pickled", "which has none: other formats can run code"),
    ],
)
def test_what_cannot_be_had_is_one_sentence_with_the_key(served: Hub, name: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refusal:
        model_folder(name, "model.reference")
    assert "`model.reference`" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("is_offline", [True, False])
def test_without_a_network_what_is_in_the_cache_serves_and_nothing_else(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_offline: bool
) -> None:
    folder = model_folder("Org/Tiny@v1", "model.policy")
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache", is_offline=is_offline)
    assert model_folder("Org/Tiny@v1", "model.policy") == folder
    said = "HF_HUB_OFFLINE is set" if is_offline else r"http://127.0.0.1:9 did not give it \("
    with pytest.raises(ConfigurationError, match=rf"not in the cache .*, and {said}.*`hf download Org/Other`"):
        model_folder("Org/Other", "model.policy")


@pytest.mark.slow
def test_processes_that_ask_at_once_download_each_file_once(served: Hub, tmp_path: Path) -> None:
    served.repositories["model", "Org/Tiny"].files["model.safetensors"] = bytes(2**23)
    command = "from llds.files import model_folder; print(model_folder('Org/Tiny', 'model.policy').name)"
    environment = os.environ | {"HF_ENDPOINT": served.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", command], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = {rank.communicate(timeout=60)[0].strip() for rank in ranks}
    assert said == {served.repositories["model", "Org/Tiny"].commit}
    assert sorted(path for path, _ in served.downloads) == sorted(WANTED)


def own_folder(tmp_path: Path, **files: bytes) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir(exist_ok=True)
    for name, content in (TINY | {"README.md": b"---\nlicense: mit\n---\n# Card\n", ".env": b"secret"} | files).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def push(folder: Path, name: str = "Me/Agent", **settings: bool) -> str:
    return push_folder(folder, name, **{"is_public": False} | settings, message="First")  # type: ignore[arg-type]


@pytest.fixture
def writable(served: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return served


def test_a_pushed_model_is_private_and_comes_back_as_it_was_without_anything_else(
    writable: Hub, tmp_path: Path
) -> None:
    folder = own_folder(tmp_path)
    url = push(folder)
    pushed = writable.repositories["model", "Me/Agent"]
    assert (url, pushed.is_private) == (f"{writable.url}/Me/Agent/commit/{pushed.commit}", True)
    assert pushed.files.keys() == WANTED | {"README.md"}
    again = model_folder("Me/Agent", "model.policy")
    assert all((again / name).read_bytes() == TINY[name] for name in WANTED)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    push(folder)
    assert "model.safetensors" not in pushed.files, (
        "weights of an earlier push would be loaded in place of the new ones"
    )
    assert "model-00001-of-00001.safetensors" in pushed.files


def test_a_push_that_cannot_work_is_refused_in_a_sentence(
    writable: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own_folder(tmp_path)
    writable.repositories["model", "Me/Open"] = Repository({})
    for name, message in (
        ("Me", "OWNER/NAME, got 'Me'"),
        ("Me/Agent@v1", "OWNER/NAME, got 'Me/Agent@v1'"),
        ("Other/Agent", "a token that may not write there. Check OWNER"),
        ("Me/Open", "Expected Me/Open to be private, got a repository that everybody may read. Add --public"),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(message)):
            push(folder, name)
    assert push(folder, "Me/Open", is_public=True)
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    with pytest.raises(ConfigurationError, match="a token that the hub does not know"):
        push(folder)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match=r"got no connection \(.*HF_ENDPOINT"):
        push(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="got HF_HUB_OFFLINE=1"):
        push(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="Log in with `hf auth login`"):
        push(folder)
    write_manifest(folder)
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigurationError, match=r"got damage: model\.safetensors is not as it was written"):
        push(folder)
    with pytest.raises(ConfigurationError, match=r"Expected a model's folder .* got .*`llds export` makes one"):
        push(tmp_path)
