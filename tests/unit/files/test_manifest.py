"""A folder's list of checksums."""

from pathlib import Path

from llds.files import damage_of_folder, write_manifest


def test_what_is_not_as_it_was_written_is_named(tmp_path: Path) -> None:
    assert damage_of_folder(tmp_path) == ""  # a folder of another program has no list
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    write_manifest(tmp_path)
    assert damage_of_folder(tmp_path) == ""
    (tmp_path / "model.safetensors").write_bytes(b"Model.safetensors" * 100)
    assert damage_of_folder(tmp_path) == "model.safetensors is not as it was written, by its checksum"
    (tmp_path / "config.json").unlink()
    assert damage_of_folder(tmp_path) == "config.json is missing"
    (tmp_path / "checksums.json").write_text("{")
    assert damage_of_folder(tmp_path).startswith("its checksums.json is damaged")
