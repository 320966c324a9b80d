"""A cached folder is made once, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from framework.core.atomic import MANIFEST
from framework.core.cache import cache_directory, cached_folder, find_folder
from framework.core.problems import RunFailed


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def write(folder):
    (folder / "weights").write_bytes(b"abc")


def fail(folder):
    (folder / "weights").write_bytes(b"ab")
    raise KeyboardInterrupt


def refuse(folder):
    raise AssertionError("made again")


def test_a_folder_is_made_once_with_the_hash_of_every_file():
    folder = cached_folder("models", "key", write)
    assert folder == find_folder("models", "key") == (cache_directory() / "models") / "key"
    assert cached_folder("models", "key", refuse) == folder
    manifest = json.loads((folder / MANIFEST).read_text())
    digest = hashlib.sha256(b"abc").hexdigest()
    assert manifest == {"files": {"weights": {"sha256": digest, "size_bytes": 3}}}


def test_an_interrupted_folder_is_never_seen_and_leaves_nothing():
    with pytest.raises(KeyboardInterrupt):
        cached_folder("models", "key", fail)
    assert find_folder("models", "key") is None
    assert [path.name for path in (cache_directory() / "models").iterdir()] == ["key.lock"]
    assert (cached_folder("models", "key", write) / "weights").read_bytes() == b"abc"


def test_what_a_killed_process_left_is_cleared_away():
    left = (cache_directory() / "models") / ".key.part-abandoned"
    left.mkdir(parents=True)
    (left / "weights").write_bytes(b"a")
    cached_folder("models", "key", write)
    assert not left.exists()


@pytest.mark.parametrize("damage", ["shorter file", "missing file", "broken manifest"])
def test_a_damaged_folder_is_made_again(damage):
    folder = cached_folder("models", "key", write)
    if damage == "shorter file":
        (folder / "weights").write_bytes(b"a")
    elif damage == "missing file":
        (folder / "weights").unlink()
    else:
        (folder / MANIFEST).write_text("{")
    assert find_folder("models", "key") is None
    assert (cached_folder("models", "key", write) / "weights").read_bytes() == b"abc"


def test_a_cache_that_cannot_be_written_is_a_message(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RunFailed, match="can't be written") as caught:
        cached_folder("models", "key", write)
    assert "XDG_CACHE_HOME" in str(caught.value)


def test_processes_that_ask_at_once_make_it_once(tmp_path):
    code = (
        "import sys, time, uuid; from pathlib import Path\n"
        "from framework.core.cache import cached_folder\n"
        "def make(folder):\n"
        "    (folder / 'weights').write_text('half')\n"
        "    Path(sys.argv[1], uuid.uuid4().hex).touch()\n"
        "    time.sleep(0.5)\n"
        "    (folder / 'weights').write_text('whole')\n"
        "print((cached_folder('models', 'key', make) / 'weights').read_text())\n"
    )
    made = tmp_path / "made"
    made.mkdir()
    command = [sys.executable, "-c", code, str(made)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert said == ["whole"] * 4
    assert len(list(made.iterdir())) == 1
