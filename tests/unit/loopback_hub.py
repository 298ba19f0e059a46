"""A hub on the loopback interface: the part of the Hugging Face hub's API that its client uses to fetch models."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_BYTES = 4096
"""Files from here on are stored as the hub stores large ones: with a SHA-256, and served by another address."""
POLL_S = 0.01
"""Between two looks whether the hub is to stop, for which each test waits."""


@dataclass
class Repo:
    """A repository of one commit; what it says of its files may be made to differ from what they are."""

    files: dict[str, bytes]
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    listed: dict[str, bytes] = field(default_factory=dict)
    """What the hub takes the files for; default: what they are."""
    gated: bool = False
    redirects: dict[str, str] = field(default_factory=dict)

    def entries(self) -> Iterator[tuple[str, int, str, bool]]:
        """Yield name, length and hash of every file, and whether it is a large one."""
        for name, data in {**self.files, **self.listed}.items():
            if len(data) >= LFS_BYTES:
                yield name, len(data), hashlib.sha256(data).hexdigest(), True
            else:
                digest = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
                yield name, len(data), digest.hexdigest(), False


class LoopbackHub:
    """What the server serves, and what it was asked for."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        """Method and path, with ``#`` and the asked range, if any."""
        self.tokens: dict[str, str] = {}
        """What was given as Authorization, by path."""
        self.url = self.cdn_url = ""

    def add(self, name: str, source: Mapping[str, bytes] | Path, **options: Any) -> Repo:
        """Serve files, or those of a folder, under a name."""
        if isinstance(source, Path):
            paths = [path for path in source.rglob("*") if path.is_file()]
            source = {path.relative_to(source).as_posix(): path.read_bytes() for path in paths}
        self.repos[name] = Repo(dict(source), **options)
        return self.repos[name]

    def fetched(self) -> list[str]:
        """Return the paths of the files that were sent, in order, each as often as it was."""
        return [path.split("/", 5)[5] for method, path in self.requests if method == "GET" and "/resolve/" in path]


@contextmanager
def serve() -> Iterator[LoopbackHub]:
    """Run a hub in a thread."""
    hub = LoopbackHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:  # named by the base class
            self.answer()

        def do_GET(self) -> None:  # named by the base class
            self.answer()

        def answer(self) -> None:
            url = urlsplit(self.path)
            asked = self.headers.get("Range")
            hub.requests.append((self.command, unquote(url.path) + (f"#{asked}" if asked else "")))
            hub.tokens[unquote(url.path)] = self.headers.get("Authorization", "")
            parts = unquote(url.path).removeprefix("/").split("/")
            if parts[0] == "cdn":
                self.send_file(hub.repos["/".join(parts[1:3])].files["/".join(parts[3:])])
            elif parts[:3] == ["api", "v1", "models"] and len(parts) > 4:
                self.send_as_modelscope("/".join(parts[3:5]), parts[5:], parse_qs(url.query))
            elif parts[:2] == ["api", "models"]:
                self.send_info("/".join(parts[2:4]), parts[4:], parse_qs(url.query))
            elif len(parts) > 4 and parts[2] == "resolve":
                self.send_resolved("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            else:
                self.send_problem(404, "EntryNotFound")

        def send_info(self, name: str, rest: list[str], query: dict[str, list[str]]) -> None:
            repo = hub.repos.get(name)
            if repo is None:
                self.send_problem(401, "RepoNotFound")
            elif rest[1:] and rest[1] not in ("main", "v1.0", repo.commit):
                self.send_problem(404, "RevisionNotFound")
            elif rest[:1] == ["tree"]:
                tree = [
                    {"type": "file", "path": path, "size": size, "oid": digest}
                    | ({"lfs": {"oid": digest, "size": size, "pointerSize": 134}} if large else {})
                    for path, size, digest, large in repo.entries()
                ]
                self.send_json(tree)
            else:
                siblings = [
                    {"rfilename": path}
                    | ({"size": size, "blobId": digest} if "blobs" in query else {})
                    | (
                        {"lfs": {"sha256": digest, "size": size, "pointerSize": 134}}
                        if large and "blobs" in query
                        else {}
                    )
                    for path, size, digest, large in repo.entries()
                ]
                info = {
                    "_id": "1",
                    "id": name,
                    "modelId": name,
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                }
                self.send_json(
                    {**info, "sha": repo.commit, "gated": "manual" if repo.gated else False, "siblings": siblings}
                )

        def send_as_modelscope(self, name: str, rest: list[str], query: dict[str, list[str]]) -> None:
            """Answer as ModelScope does: its listing, and one of its files."""
            repo = hub.repos.get(name)
            path = query.get("FilePath", [""])[0]
            if repo is None:
                self.send_problem(404, "RepoNotFound")
            elif rest == ["repo", "files"]:
                listed = {**repo.files, **repo.listed}
                files = [
                    {"Path": path, "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest(), "Type": "blob"}
                    for path, data in listed.items()
                ]
                self.send_json({"Code": 200, "Success": True, "Data": {"Files": files}})
            elif rest == ["repo"] and path in repo.files:
                self.send_file(repo.files[path])
            else:
                self.send_problem(404, "FileNotFound")

        def send_resolved(self, name: str, revision: str, path: str) -> None:
            repo = hub.repos.get(name)
            entry = next((entry for entry in repo.entries() if entry[0] == path), None) if repo else None
            if repo is None:
                self.send_problem(401, "RepoNotFound")
            elif repo.gated:
                self.send_problem(403, "GatedRepo")
            elif entry is None or revision not in ("main", "v1.0", repo.commit):
                self.send_problem(404, "EntryNotFound")
            else:
                _, size, digest, large = entry
                headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{digest}"'}
                if large or path in repo.redirects:
                    location = repo.redirects.get(path, f"{hub.cdn_url}/{name}/{path}")
                    linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(size), "Location": location}
                    self.send(302, b"", headers | linked)
                else:
                    self.send_file(repo.files.get(path, b""), headers)

        def send_file(self, data: bytes, headers: Mapping[str, str] = {}) -> None:  # not changed
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            more = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
            if start:
                more["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.send(206 if start else 200, data[start:], {**headers, **more})

        def send_json(self, document: Any) -> None:
            self.send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

        def send_problem(self, status: int, code: str) -> None:
            self.send(status, b'{"error": "no"}', {"X-Error-Code": code, "Content-Type": "application/json"})

        def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client may die."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    hub.cdn_url = f"http://localhost:{server.server_address[1]}/cdn"  # another host: what is sent there is no secret
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
