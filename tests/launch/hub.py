"""The Hugging Face Hub as far as a dataset is pushed to it and read back: real clients speak HTTP with it."""

import base64
import json
import threading
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repos: files by name, of each dataset's id.
        private: ids of those that were made so.
        commits: of all repositories, in order: names of the files that came with each.
        token: who does not send it is refused.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.private, self.commits, self.token = {}, set(), [], "hf_testing"

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running():
    """A Hub that lives as long as the block."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


@contextmanager
def known(monkeypatch):
    """The same, and this process knows no other."""
    with running() as hub:
        constants = huggingface_hub.constants  # of the environment at import
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self._path()
        match path:
            case ["api", "whoami-v2"]:
                self._json({"type": "user", "name": "me", "orgs": []})
            case ["api", "datasets", user, name, *_] if f"{user}/{name}" not in self.server.repos:
                self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            case ["api", "datasets", user, name, "tree", _, *folder]:
                everything = "recursive=true" in self.path.lower()
                found = _tree(self.server.repos[f"{user}/{name}"], "".join(f"{one}/" for one in folder), everything)
                if folder and not found:
                    self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                else:
                    self._json(found)
            case ["api", "datasets", user, name, *_]:
                repo = f"{user}/{name}"
                siblings = [{"rfilename": one} for one in self.server.repos[repo]]
                self._json({"id": repo, "sha": _id(repo), "private": False, "siblings": siblings, "tags": []})
            case ["datasets", user, name, "resolve", _, *file]:
                self._file(f"{user}/{name}", "/".join(file))
            case ["refused"]:
                self._json({"error": "Invalid username or password."}, 401)
            case _:
                self._json({"error": f"nothing at {self.path}"}, 404)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self._path()
        match path:
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                repo = f"{asked['organization']}/{asked['name']}"
                where = f"{self.server.url}/datasets/{repo}"
                if repo in self.server.repos:
                    self._json({"error": "You already created this dataset repo", "url": where}, 409)
                    return
                self.server.repos[repo] = {".gitattributes": b""}
                self.server.private |= {repo} if asked.get("visibility") == "private" else set()
                self._json({"url": where, "id": repo})
            case ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["api", "datasets", _, _, "preupload", _]:
                files = [one["path"] for one in json.loads(body)["files"]]
                self._json({"files": [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in files]})
            case ["api", "datasets", user, name, "paths-info", _]:
                files = self.server.repos[f"{user}/{name}"]
                wanted = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
                self._json([_entry(one, files[one]) for one in wanted if one in files])
            case ["api", "datasets", user, name, "commit", _]:
                lines = [json.loads(line) for line in body.splitlines()]
                sent = {one["value"]["path"]: one["value"]["content"] for one in lines if one["key"] == "file"}
                self.server.repos[f"{user}/{name}"].update({one: base64.b64decode(text) for one, text in sent.items()})
                self.server.commits.append(sorted(sent))
                where = f"{self.server.url}/datasets/{user}/{name}/commit/{_id(body)}"
                self._json({"success": True, "commitOid": _id(body), "commitUrl": where})
            case ["refused"]:
                self._json({"error": "Invalid username or password."}, 401)
            case _:
                self._json({"error": f"nothing at {self.path}"}, 404)

    def _path(self):
        """Its parts; none of these mean anything without the token."""
        known = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        path = unquote(urlsplit(self.path).path).strip("/").split("/")
        return path if known or not {"whoami-v2", "create", "commit"}.intersection(path) else ["refused"]

    def _file(self, repo, name):
        text = self.server.repos.get(repo, {}).get(name)
        if text is None:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        self._answer(text, 200, {"X-Repo-Commit": _id(repo), "ETag": f'"{_id(text)}"'})

    def _json(self, found, status=200, headers=None):
        self._answer(json.dumps(found).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _answer(self, body, status, headers):
        begin, end = 0, len(body)
        if status == 200 and (asked := self.headers.get("Range")):
            first, last = asked.removeprefix("bytes=").split("-")
            begin, end, status = int(first), int(last or end - 1) + 1, 206
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(body)}"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(end - begin)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[begin:end])

    def log_message(self, *_):
        pass


def _tree(files, folder, everything):
    inside = {name: text for name, text in files.items() if name.startswith(folder)}
    names = {folder + name.removeprefix(folder).partition("/")[0] for name in inside}
    if everything:
        parents = (str(one) for name in inside for one in PurePosixPath(name).parents if str(one) != ".")
        names = {*inside, *(one for one in parents if one.startswith(folder))}
    return [
        _entry(name, files[name])
        if name in files
        else {"type": "directory", "path": name, "oid": _id(name), "size": 0}
        for name in sorted(names)
    ]


def _entry(name, text):
    return {"type": "file", "path": name, "size": len(text), "oid": _id(text)}


def _id(of):
    return sha1(of if isinstance(of, bytes) else of.encode()).hexdigest()
