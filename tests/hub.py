"""A small hub on loopback, with what huggingface_hub asks of the real one: repositories, revisions, files in ranges.

It can refuse, be gated, break off in the middle of a file, and takes commits. Files above 1 KB are kept as large files
are (LFS).
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from llds.files import hub

_LFS_BYTES = 1024
_API = re.compile(r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
_WRITE = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)/(?P<what>preupload|commit)/main")
_LFS = re.compile(r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
TOKEN = "hf_writes"
"""The token that may write what is below `OWNER`."""
OWNER = "Me"
_FILE = re.compile(r"/(?P<data>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class Repository:
    """A repository of one state.

    Attributes:
        files: Contents by path.
        is_gated: Whether nobody may read it.
        is_private: Whether it says so of itself.
        revisions: Names of its one commit.
    """

    files: dict[str, bytes]
    is_gated: bool = False
    is_private: bool = False
    revisions: tuple[str, ...] = ("main", "v1")

    @property
    def commit(self) -> str:
        """A hash of all files."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()

    @classmethod
    def of(cls, folder: Path, **settings: Any) -> "Repository":
        """The files of a folder."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return cls({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}, **settings)


@dataclass
class Hub:
    """What the hub has, and what it was asked.

    Attributes:
        repositories: By kind (``model``, ``dataset``) and name.
        url: Where it listens.
        downloads: File and range of each download that was begun.
        requests: All requests, ``METHOD PATH``.
        breaks: Paths of files, and how many times more the answer ends after half of what was asked for.
        failing: Paths of files that are answered with status 500.
        large: Contents of large files that were sent, by their hashes.
    """

    repositories: dict[tuple[str, str], Repository]
    url: str = ""
    downloads: list[tuple[str, str | None]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    breaks: dict[str, int] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    large: dict[str, bytes] = field(default_factory=dict)


def _etag(content: bytes) -> str:
    if len(content) > _LFS_BYTES:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self.hub.large[self.path.rpartition("/")[2]] = self._body()
        self._send(200, b"")

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        self.hub.requests.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, b"")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if match := _LFS.fullmatch(path):
            return self._json({"objects": [self._place(one["oid"]) for one in json.loads(body)["objects"]]})
        match = _WRITE.fullmatch(path)
        found = self.hub.repositories.get(("model", match["name"])) if match else None
        if match is None or found is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if match["what"] == "commit":
            return self._commit(found, match["name"], [json.loads(line) for line in body.splitlines()])
        modes = [
            {"path": one["path"], "uploadMode": "lfs" if one["size"] > _LFS_BYTES else "regular", "shouldIgnore": False}
            for one in json.loads(body)["files"]
        ]
        return self._json({"files": modes})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != OWNER:
            return self._send(403, b"")
        if ("model", name) in self.hub.repositories:
            return self._json({"url": f"{self.hub.url}/{name}"}, status=409)
        self.hub.repositories["model", name] = Repository({}, is_private=asked.get("visibility") == "private")
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _place(self, oid: str) -> dict[str, Any]:
        return {"oid": oid, "size": 0, "actions": {"upload": {"href": f"{self.hub.url}/large/{oid}"}}}

    def _commit(self, found: Repository, name: str, lines: list[dict[str, Any]]) -> None:
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                found.files[value["path"]] = self.hub.large[value["oid"]]
            elif key == "deletedFile":
                del found.files[value["path"]]
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{found.commit}", "commitOid": found.commit})

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if match := _API.fullmatch(path):
            kind, name, what, revision = match["kind"], match["name"], match["what"], match["revision"]
        elif match := _FILE.fullmatch(path):
            kind = "dataset" if match["data"] else "model"
            name, what, revision = match["name"], "file", match["revision"]
        else:
            return self._send(404, b"")
        found = self.hub.repositories.get((kind, name))
        if found is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if found.is_gated:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        if revision is not None and revision not in (*found.revisions, found.commit):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if what == "file":
            return self._file(found, match["file"])
        return self._json(self._tree(found) if what == "tree" else self._info(found, name))

    def _info(self, found: Repository, name: str) -> dict[str, Any]:
        files = [{"rfilename": path} for path in found.files]
        return {
            "id": name,
            "sha": found.commit,
            "siblings": files,
            "private": found.is_private,
            "tags": [],
            "downloads": 0,
        }

    def _tree(self, found: Repository) -> list[dict[str, Any]]:
        entries = []
        for path, content in found.files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _etag(content)}
            if len(content) > _LFS_BYTES:
                entry["lfs"] = {"oid": _etag(content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return entries

    def _file(self, found: Repository, path: str) -> None:
        if path not in found.files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        if path in self.hub.failing:
            return self._send(500, b"")
        content, asked = found.files[path], self.headers.get("Range")
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": found.commit, "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            return self._send(200, content, headers)
        self.hub.downloads.append((path, asked))
        status = 200
        if asked and (span := re.fullmatch(r"bytes=(\d+)-(\d*)", asked)):
            start, end = int(span[1]), int(span[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        is_broken = self.hub.breaks.get(path, 0) > 0
        if is_broken:
            self.hub.breaks[path] -= 1
        return self._send(status, content, headers, half=is_broken)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None, half: bool = False) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if half else body)
        if half:
            self.close_connection = True


@contextmanager
def serving_hub(repositories: Mapping[tuple[str, str], Repository]) -> Iterator[Hub]:
    """A hub on a free port of this machine, for other processes, too: they get ``HF_ENDPOINT=hub.url``."""
    served = Hub(dict(repositories))
    handler = type("Handler", (_Handler,), {"hub": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path, *, is_offline: bool = False) -> None:
    """Let this process ask a hub, with an empty cache; what was asked for by name before is forgotten."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr(hub, "_pins", {})
