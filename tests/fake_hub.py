"""A Hugging Face Hub on this machine: what its client needs to create, write and read repositories.

It speaks HTTP as the hub does to huggingface_hub 1.3 and later without hf_xet. Small files go into
the commit itself, and safetensors to the storage of large files.
"""

import base64
import hashlib
import json
import re
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub

#: What may write, and what may only read.
WRITER, READER = "hf_writer", "hf_reader"


class Repository:
    """A repository, and the files of the last commit of each branch."""

    def __init__(self, private):
        self.private = private
        self.branches = {"main": {".gitattributes": b"*.safetensors filter=lfs"}}
        self.titles = []

    def sha(self, revision):
        """Name the last commit of a branch; it depends on the files alone."""
        files = self.branches[revision]
        digest = hashlib.sha1(str(len(self.titles)).encode())
        for name in sorted(files):
            digest.update(name.encode() + files[name])
        return digest.hexdigest()

    def files(self, revision):
        """Find the files of a branch or a commit; None if there is none."""
        commits = {self.sha(branch): files for branch, files in self.branches.items()}
        return self.branches.get(revision, commits.get(revision))


class FakeHub:
    """The hub: repositories by name, the large files, and the requests that came.

    Attributes
    ----------
    repositories : dict of str to Repository
    large : dict of str to bytes
        By their SHA-256.
    requests : list of tuple
        Method, path and token of each.
    """

    def __init__(self):
        self.repositories, self.large, self.requests = {}, {}, []

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_):
        huggingface_hub.close_session()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def use(self, monkeypatch, cache):
        """Let the client of this process know no other hub, and no token."""
        huggingface_hub.close_session()
        constants = huggingface_hub.constants
        for name, value in {
            "ENDPOINT": self.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.endpoint
            + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(cache / "no-token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")

    def files(self, name, revision="main"):
        """Return the files of a branch as bytes, by their names."""
        return self.repositories[name].branches[revision]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_):
        """Print nothing."""

    def do_GET(self):
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self):
        self.body = self._read_body()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.hub.requests.append((self.command, url.path, token))
        for method, pattern, answer, writes in _ROUTES:
            match = re.fullmatch(pattern, url.path)
            if match is None or self.command not in method.split():
                continue
            if writes and token != WRITER:
                status, words = (403, "Forbidden") if token == READER else (401, "Invalid username")
                return self._refuse(status, words)
            groups = {name: unquote(value) for name, value in match.groupdict().items() if value}
            if "repo" in groups:
                name = groups.pop("repo")
                repository = self.hub.repositories.get(name)
                if repository is None or (repository.private and token not in (WRITER, READER)):
                    return self._refuse(401, "Repository not found", "RepoNotFound")
                groups |= {"name": name, "repository": repository}
            return answer(self, **groups)
        return self._refuse(404, f"no route for {self.command} {url.path}")

    def _read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, content, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value, status=200):
        self._send(json.dumps(value).encode(), status, Content_Type="application/json")

    def _refuse(self, status, words, code=""):
        headers = {"X_Error_Message": words} | ({"X_Error_Code": code} if code else {})
        self._send(b"", status, **headers)

    def _files(self, repository, revision):
        files = repository.files(revision)
        if files is None:
            self._refuse(404, f"no revision {revision}", "RevisionNotFound")
        return files

    # What the client asks for ---------------------------------------------------------------------

    def create(self):
        wish = json.loads(self.body)
        name = f"{wish['organization']}/{wish['name']}"
        status = 409 if name in self.hub.repositories else 200
        private = wish.get("private") or wish.get("visibility") == "private"  # 1.x, 2.x
        self.hub.repositories.setdefault(name, Repository(private))
        self._json({"url": f"{self.hub.endpoint}/{name}", "error": "exists"}, status)

    def branch(self, name, repository, revision):
        status = 409 if revision in repository.branches else 200
        repository.branches.setdefault(revision, dict(repository.branches["main"]))
        self._json({}, status)

    def validate(self):
        content = json.loads(self.body)["content"]
        errors = [] if content.startswith("---\n") else [{"message": "no front matter"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, name, repository, revision):
        if (stored := self._files(repository, revision)) is None:
            return
        answers = []
        for file in json.loads(self.body)["files"]:
            is_large = fnmatch(file["path"], "*.safetensors")
            answers.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_large else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(file["path"], stored[file["path"]])
                    if file["path"] in stored
                    else None,
                }
            )
        self._json({"files": answers})

    def batch(self, name, repository):
        wanted = json.loads(self.body)["objects"]
        href = f"{self.hub.endpoint}/large/"
        actions = [{**o, "actions": {"upload": {"href": href + o["oid"]}}} for o in wanted]
        self._json({"transfer": "basic", "objects": actions})

    def store(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.large[oid] = self.body
        self._send(b"")

    def commit(self, name, repository, revision):
        if self._files(repository, revision) is None:
            return
        files = dict(repository.branches[revision])
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            match entry["key"]:
                case "header":
                    repository.titles.append(value["summary"])
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        repository.branches[revision] = files
        sha = repository.sha(revision)
        self._json({"commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}", "commitOid": sha})

    def info(self, name, repository, revision="main"):
        if (files := self._files(repository, revision)) is None:
            return
        sha = repository.sha(revision) if revision in repository.branches else revision
        siblings = [{"rfilename": file} for file in sorted(files)]
        self._json({"id": name, "sha": sha, "siblings": siblings, "private": repository.private})

    def tree(self, name, repository, revision):
        if (files := self._files(repository, revision)) is None:
            return
        self._json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
                for path, content in sorted(files.items())
            ]
        )

    def resolve(self, name, repository, revision, path):
        if (files := self._files(repository, revision)) is None:
            return
        if path not in files:
            return self._refuse(404, f"no file {path}", "EntryNotFound")
        sha = repository.sha(revision) if revision in repository.branches else revision
        etag = f'"{_oid(path, files[path])}"'
        self._send(files[path], ETag=etag, X_Repo_Commit=sha)


def _git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _oid(path, content):
    is_large = fnmatch(path, "*.safetensors")
    return hashlib.sha256(content).hexdigest() if is_large else _git_hash(content)


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = rf"/api/models/{_REPO}"
_REVISION = r"(?P<revision>[^/]+)"
#: Methods, path, answer, and whether it needs a token that may write.
_ROUTES = (
    ("POST", "/api/repos/create", _Handler.create, True),
    ("POST", "/api/validate-yaml", _Handler.validate, False),
    ("POST", rf"{_API}/branch/{_REVISION}", _Handler.branch, True),
    ("POST", rf"{_API}/preupload/{_REVISION}", _Handler.preupload, True),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.batch, True),
    ("PUT", r"/large/(?P<oid>[0-9a-f]{64})", _Handler.store, False),
    ("POST", rf"{_API}/commit/{_REVISION}", _Handler.commit, True),
    ("GET", _API, _Handler.info, False),
    ("GET", rf"{_API}/revision/{_REVISION}", _Handler.info, False),
    ("GET", rf"{_API}/tree/{_REVISION}", _Handler.tree, False),
    ("HEAD GET", rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve, False),
)
