"""The Hub source against a small server that speaks the Hub's protocol."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

COMMITS = {
    "0" * 39 + "1": b'{"text": "old"}\n',
    "0" * 39 + "2": b'{"text": "one"}\n{"text": "two"}\n',
}
OLD, NEW = COMMITS
REVISIONS = {"main": NEW, "v1": OLD, **{commit: commit for commit in COMMITS}}
TOKEN = "secret"


class SmallHub(BaseHTTPRequestHandler):
    """One public dataset `some/rows` and the same one as `some/locked`, for `TOKEN` only."""

    log_message: ClassVar = lambda *arguments: None
    seen: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        self.seen.append(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        path = re.sub(r"^(/api/datasets/some/\w+)(?=$|\?)", r"\1/revision/main", self.path)
        found = re.match(r"/(?:api/)?datasets/some/(rows|locked)/([\w-]+)/([^/?]+)/?([^?]*)", path)
        locked = found and found[1] == "locked"
        if not found or (locked and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        _, action, revision, path = found.groups()
        if revision not in REVISIONS:
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        commit = REVISIONS[revision]
        file = {
            "type": "file",
            "path": "train.jsonl",
            "size": len(COMMITS[commit]),
            "oid": commit,
        }
        if action == "revision":
            siblings = [{"rfilename": "train.jsonl"}]
            return self.send(200, {"id": f"some/{found[1]}", "sha": commit, "siblings": siblings})
        if action == "tree":
            return self.send(200, [] if path else [file])
        if action == "paths-info":
            return self.send(200, [file] if "train.jsonl" in body else [])
        if action == "resolve" and path == "train.jsonl":
            headers = {"ETag": f'"{commit}"', "X-Repo-Commit": commit}
            return self.send(200, COMMITS[commit], headers)
        return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})

    def send(self, status, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


SCRIPT = """
import json, sys
from framework.core.problems import UserError
from framework.data_sources.hub import Hub
answers = []
for fields in json.loads(sys.argv[1]):
    try:
        start = fields.pop("start", 1)
        source = Hub(**fields)
        answers.append([list(source.rows(start)), source.fingerprint()])
    except UserError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def asked(home, endpoint, *sources, folder=None, **environment):
    """[rows, fingerprint] of each source, or its error, as a fresh process gets them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, **environment}
    for name in (
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "all_proxy",
    ):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(sources)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_rows_come_from_the_revision_and_never_from_a_folder_of_the_same_name(tmp_path, endpoint):
    (tmp_path / "some" / "rows").mkdir(parents=True)
    (tmp_path / "some" / "rows" / "train.jsonl").write_text('{"text": "local"}\n')
    answers = asked(
        tmp_path / "home",
        endpoint,
        {"repo": "some/rows"},
        {"repo": "some/rows", "revision": OLD},
        {"repo": "some/rows", "revision": "v1"},
        {"repo": "some/rows", "split": "train[1:]"},
        {"repo": "some/rows", "start": 2},
        {"repo": "some/rows", "start": 9},
        folder=tmp_path,
    )
    new = [[1, {"text": "one"}], [2, {"text": "two"}]]
    old = [[1, {"text": "old"}]]
    assert answers == [
        [new, f"some/rows//train@{NEW}"],
        [old, f"some/rows//train@{OLD}"],
        [old, f"some/rows//train@{OLD}"],
        [[[1, {"text": "two"}]], f"some/rows//train[1:]@{NEW}"],
        [[[2, {"text": "two"}]], f"some/rows//train@{NEW}"],
        [[], f"some/rows//train@{NEW}"],
    ]


def test_streamed_rows_are_the_same_from_any_row_on_and_are_not_kept(tmp_path, endpoint):
    streamed = {"repo": "some/rows", "streaming": True}
    whole, second, beyond, split = asked(
        tmp_path,
        endpoint,
        streamed,
        {**streamed, "start": 2},
        {**streamed, "start": 9},
        {**streamed, "split": "trian"},
    )
    new = [[1, {"text": "one"}], [2, {"text": "two"}]]
    assert whole == [new, f"some/rows//train@{NEW}"]
    assert second[0] == new[1:]
    assert beyond[0] == []
    assert "split 'trian' can't be read" in split
    assert not list(tmp_path.rglob("*.arrow"))


def test_what_does_not_exist_is_a_problem(tmp_path, endpoint):
    missing, revision, split, shape = asked(
        tmp_path,
        endpoint,
        {"repo": "some/nothing"},
        {"repo": "some/rows", "revision": "v9"},
        {"repo": "some/rows", "split": "trian"},
        {"repo": "./rows"},
    )
    assert "'some/nothing': can't be loaded" in missing
    assert "v9" in revision
    assert "split 'trian' can't be read" in split
    assert "train" in split
    assert "write owner/name" in shape


def test_the_token_is_read_from_the_named_variable(tmp_path, endpoint):
    locked = {"repo": "some/locked", "token_env": "MY_TOKEN"}
    allowed = {"FRAMEWORK_ALLOW_ENV": "OTHER MY_TOKEN"}
    ((rows, _),) = asked(tmp_path / "a", endpoint, locked, MY_TOKEN=TOKEN, **allowed)
    assert len(rows) == 2
    (refused,) = asked(tmp_path / "b", endpoint, locked, MY_TOKEN="wrong", **allowed)
    assert "can't be loaded" in refused
    assert "wrong" not in refused
    (unset,) = asked(tmp_path / "c", endpoint, locked, **allowed)
    assert "'MY_TOKEN' (token_env) is not set; export MY_TOKEN=hf_..." in unset


def test_a_token_that_the_user_did_not_allow_is_sent_nowhere(tmp_path, endpoint):
    SmallHub.seen.clear()
    locked = {"repo": "some/locked", "token_env": "MY_TOKEN"}
    (refused,) = asked(tmp_path, endpoint, locked, MY_TOKEN=TOKEN, FRAMEWORK_ALLOW_ENV="OTHER")
    assert "asks to send the value of MY_TOKEN to the Hub" in refused
    assert "--allow-env MY_TOKEN" in refused and "FRAMEWORK_ALLOW_ENV=MY_TOKEN" in refused
    assert TOKEN not in refused
    assert not SmallHub.seen


def test_offline_reads_the_cache_but_never_another_revision(tmp_path, endpoint):
    asked(tmp_path, endpoint, {"repo": "some/rows"})
    cached, pinned, other, tagged, absent = asked(
        tmp_path,
        endpoint,
        {"repo": "some/rows"},
        {"repo": "some/rows", "revision": NEW},
        {"repo": "some/rows", "revision": OLD},
        {"repo": "some/rows", "revision": "v1"},
        {"repo": "some/others"},
        HF_HUB_OFFLINE="1",
    )
    assert cached[1] == pinned[1] == f"some/rows//train@{NEW}"
    assert [row["text"] for _, row in cached[0]] == ["one", "two"]
    assert f"`revision: {NEW}`" in other
    assert f"`revision: {NEW}`" in tagged
    assert "'some/others': can't be loaded" in absent
