"""A stand-in for the Hugging Face hub on the loopback: creates repositories, takes commits, gives files."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from unittest.mock import patch
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories in memory, each of one branch, main."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, dict[str, bytes]] = {}  # repository -> name -> content
        self.private: dict[str, bool] = {}
        self.tokens: set[str] = set()  # that requests came with
        self.refuses = False  # commits

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()  # noqa: S324


class _Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, content: object = None, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, what: str) -> None:
        self._answer({"error": what}, 404, X_Error_Code=what)

    def _read(self) -> bytes:
        self.server.tokens.add(self.headers.get("Authorization", ""))
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        body, path = self._read(), urlparse(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            exists = name in self.server.files
            self.server.files.setdefault(name, {})
            self.server.private.setdefault(name, asked.get("private") or asked.get("visibility") == "private")
            self._answer({"url": f"{self.server.url}/{name}", "id": name}, 409 if exists else 200)
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._answer({"files": [{"path": name, **modes} for name in names]})
        elif "/commit/" in path:
            if self.server.refuses:
                self._answer({"error": "You don't have the rights"}, 403)
                return
            name = "/".join(path.split("/")[3:5])
            values = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
            self.server.files[name] |= {file["path"]: base64.b64decode(file["content"]) for file in values}
            url = f"{self.server.url}/{name}/commit/{COMMIT}"
            self._answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
        else:
            self._missing("EntryNotFound")

    def do_GET(self) -> None:
        self._read()
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        parts, of_api = (parts[2:], True) if parts[:2] == ["api", "models"] else (parts, False)
        name, kind, revision = "/".join(parts[:2]), "".join(parts[2:3]), "".join(parts[3:4])
        files = self.server.files.get(name)
        if files is None:
            self._missing("RepoNotFound")
        elif revision not in {"", "main", COMMIT}:
            self._missing("RevisionNotFound")
        elif of_api and kind in {"", "revision"}:
            siblings = [{"rfilename": file} for file in files]
            private = self.server.private[name]
            self._answer({"id": name, "sha": COMMIT, "private": private, "siblings": siblings, "tags": []})
        elif of_api and kind == "tree":
            sizes = {file: {"size": len(content), "oid": _hash(content)} for file, content in files.items()}
            self._answer([{"type": "file", "path": file, **size} for file, size in sizes.items()])
        elif kind == "resolve" and (file := "/".join(parts[4:])) in files:
            self._answer(files[file], ETag=f'"{_hash(files[file])}"', X_Repo_Commit=COMMIT)
        else:
            self._missing("EntryNotFound")

    do_HEAD = do_GET  # noqa: N815


@contextmanager
def stand_in_hub(cache: object) -> Iterator[Hub]:
    """A hub that `huggingface_hub` takes for the real one, with a cache of its own."""
    hub = Hub()
    Thread(target=hub.serve_forever, daemon=True).start()
    constants = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }
    try:
        with patch.multiple("huggingface_hub.constants", **constants):
            yield hub
    finally:
        hub.shutdown()
        hub.server_close()
