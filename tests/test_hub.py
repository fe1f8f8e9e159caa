"""Models on a hub, through the library that talks to it and a small server that answers as the hub does."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from conftest import composed, small, train

from artdiff import UserError, hub, runs
from artdiff.export import export
from artdiff.settings.sharing import ExportSettings

TINY = ("network=unet", "network.channels=[16,32]", "network.cond_dim=16", "scheduler=null", "data.image_size=16")


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's HTTP API as making a model, committing files and fetching them need."""

    protocol_version = "HTTP/1.1"

    @property
    def files(self):
        return self.server.files

    def log_message(self, *what):
        pass

    def answer(self, content=b"{}", code=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.tokens.add(self.headers["Authorization"])
        if self.path.endswith("/repos/create"):
            self.server.made.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/me/model", "name": "me/model", "id": "me/model"})
        elif "/preupload/" in self.path:
            paths = [one["path"] for one in json.loads(body)["files"]]
            self.answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/me/model/commit/{'1' * 40}",
                    "commitOid": "1" * 40,
                    "success": True,
                }
            )
        else:
            self.answer({}, 200)

    def do_GET(self):
        path = unquote(self.path.split("?")[0])
        found = re.fullmatch(r"/me/model/resolve/[^/]+/(.+)", path)
        if found and found[1] in self.files:
            content = self.files[found[1]]
            tag = hashlib.sha256(content).hexdigest()
            self.answer(content, ETag=f'"{tag}"', X_Repo_Commit="1" * 40, Accept_Ranges="bytes")
        elif path.startswith("/api/models/me/model"):
            files = [{"rfilename": name} for name in self.files]
            tree = [{"type": "file", "path": name, "size": len(content), "oid": "1" * 40}
                    for name, content in self.files.items()]  # fmt: skip
            self.answer(
                tree if "/tree/" in path else {"id": "me/model", "sha": "1" * 40, "siblings": files, "private": True}
            )
        else:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def served():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.made, server.tokens = {}, [], set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def typed(module, *words, cwd, served):
    """A command in a process of its own: the library reads its variables when it is imported."""
    variables = {
        "HF_ENDPOINT": f"http://127.0.0.1:{served.server_port}", "HF_TOKEN": "hf_mine", "HF_HOME": str(cwd / "hf"),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    import os

    found = subprocess.run([sys.executable, "-m", module, *map(str, words)], cwd=cwd, env={**os.environ, **variables},
                           capture_output=True, text=True, check=False)  # fmt: skip
    return found.returncode, found.stderr + found.stdout


@pytest.fixture(scope="module")
def run(art, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "painter"
    train(small(art, folder, "task=generation", *TINY))
    return folder


@pytest.mark.slow
def test_a_model_is_pushed_and_fetched(run, served, tmp_path):
    words = (f"ckpt={run}", "to=model", "license=mit", "push=me/model", "device=cpu", "samples=0")
    code, said = typed("artdiff.export", *words, cwd=tmp_path, served=served)
    assert code == 0, said
    assert "pushed to http://127.0.0.1" in said
    assert served.made[0]["visibility"] == "private"
    assert served.tokens == {"Bearer hf_mine"}
    assert sorted(served.files) == ["README.md", "config.json", "model.safetensors"]
    paint = ("n=1", "label=truchet", "steps=2", "device=cpu")
    for name, ckpt in (("here", run), ("there", "hf://me/model")):
        code, said = typed("artdiff.generate", f"ckpt={ckpt}", f"out={name}", *paint, cwd=tmp_path, served=served)
        assert code == 0, said
    pictures = [(tmp_path / name / "truchet_0.png") for name in ("here", "there")]
    from PIL import Image

    assert Image.open(pictures[0]).tobytes() == Image.open(pictures[1]).tobytes()


def test_a_model_that_is_not_there_is_one_line(served, tmp_path):
    code, said = typed("artdiff.generate", "ckpt=hf://me/other", "out=x", cwd=tmp_path, served=served)
    assert code == 1
    assert len(said.strip().splitlines()) == 1
    assert said.startswith("hf://me/other cannot be fetched: ")


def test_a_model_of_somebody_elses_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "fetch", lambda ckpt, patterns: tmp_path)
    with pytest.raises(UserError, match="ckpt=hf://some/model holds no model.safetensors"):
        runs.to_paint("hf://some/model", newest_in=tmp_path)


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("public", [True, False])
def test_nothing_is_pushed_to_a_model_that_others_see_or_do_not_see_against_ones_will(monkeypatch, private, public):
    pushed = []

    class Api:
        endpoint = "https://hub"

        def create_repo(self, name, *, private, exist_ok):
            assert exist_ok and private == (not public)

        def repo_info(self, name):
            return SimpleNamespace(private=private)

        def upload_folder(self, *, repo_id, **_):
            pushed.append(repo_id)

    monkeypatch.setattr(hub, "_library", lambda: SimpleNamespace(HfApi=Api))
    if private != public:
        assert hub.push(Path("model"), "me/model", public=public) == "https://hub/me/model"
        assert pushed == ["me/model"]
        return
    there, remedy = ("private", "false") if private else ("public", "true")
    with pytest.raises(UserError, match=rf"^push=me/model is {there} on the hub, .*: set public={remedy}, or make it"):
        hub.push(Path("model"), "me/model", public=public)
    assert not pushed


@pytest.mark.parametrize("name", ["model", "a/b/c", "me/", "../x", ""])
def test_a_name_that_is_none_is_one_line(name):
    with pytest.raises(UserError, match="names no model; expected USER/NAME"):
        hub.fetch(f"hf://{name}", [])


def test_a_push_is_refused_before_anything_is_written(run, tmp_path):
    words = (f"ckpt={run}", f"to={tmp_path / 'model'}", "license=mit", "push=nonsense")
    with pytest.raises(UserError, match="push=nonsense names no model"):
        export(ExportSettings.of(composed("export", *words)))
    assert not (tmp_path / "model").exists()
