"""A small Hugging Face endpoint on loopback, through which huggingface_hub itself creates, uploads and downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_x"
"""Whoever has it may read private repositories."""
Tree = dict[str, bytes]
"""File content by path."""


@dataclass
class Repository:
    """Commits, oldest first, and the branches that point at them."""

    private: bool = False
    commits: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: Tree) -> str:
        """Add files to what the branch has; returns the new commit."""
        tree = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        digest = hashlib.sha1(repr((len(self.commits), sorted(tree.items()))).encode()).hexdigest()
        self.commits[digest] = tree
        self.branches[branch] = digest
        return digest


class Hub:
    """The repositories of one endpoint and what was asked of it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        """Large files by sha256."""
        self.damaged: set[str] = set()
        """Names of files that are sent with one bit wrong."""
        self.requests: list[str] = []
        """Method and path of every request so far."""

    def add(self, name: str, files: Tree) -> str:
        """A commit on ``main`` of a repository, made if need be."""
        return self.repositories.setdefault(name, Repository()).commit("main", files)


def etag(name: str, content: bytes) -> str:
    """Sha256 of what the Hub keeps as a large file, git's digest of anything else."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        body = self._body()
        self.hub.objects[self._path().rpartition("/")[2]] = body
        self._send(200, b"")

    def do_POST(self) -> None:
        path, body = self._path(), self._body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            if name in self.hub.repositories:
                self._json({"url": f"{self.hub.address}/{name}", "error": "exists"}, 409)
                return
            made = self.hub.repositories[name] = Repository(
                private=asked.get("visibility") == "private" or bool(asked.get("private"))
            )
            made.commit("main", {})
            self._json({"url": f"{self.hub.address}/{name}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+)/branch/(.+)", path):
            repository = self.hub.repositories[match[1]]
            repository.branches[match[2]] = repository.branches["main"]
            self._json({})
        elif re.fullmatch(r"/api/models/.+/preupload/.+", path):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {file: "lfs" if file.endswith(".safetensors") else "regular" for file in files}
            self._json({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]})
        elif path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/objects/{one['oid']}"}}} for one in wanted
            ]
            self._json({"transfer": "basic", "objects": objects}, media="application/vnd.git-lfs+json")
        elif match := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            self._commit(match[1], match[2], [json.loads(line) for line in body.splitlines()])
        else:
            self._json({"error": "not found"}, 404)

    def _commit(self, name: str, branch: str, lines: list[dict[str, dict[str, str]]]) -> None:
        files: Tree = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":  # type: ignore[comparison-overlap]
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":  # type: ignore[comparison-overlap]
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = self.hub.repositories[name].commit(branch, files)
        self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit})

    def _serve(self) -> None:
        match = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", self._path())
        if match is None:
            self._json({"error": "not found"}, 404)
            return
        name, revision, file = match[1], unquote(match[2]), match[3]
        repository = self.hub.repositories.get(name)
        commit = None if repository is None else repository.branches.get(revision, revision)
        if repository is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif repository.private and self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif commit not in repository.commits:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif file not in repository.commits[commit]:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            content = repository.commits[commit][file]
            digest = etag(file, content)
            if file in self.hub.damaged:
                content = content[:-1] + bytes([content[-1] ^ 1])
            self._send(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})

    def _path(self) -> str:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        return path

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, answer: object, status: int = 200, media: str = "application/json") -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": media})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def running() -> Iterator[Hub]:
    """An endpoint without repositories, on a free port."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
