"""Trackers get the rows of `metrics.jsonl`, in files that can be read without a network."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys

import pytest
from conftest import read_rows
from warm_start import FRAMEWORK

pytestmark = pytest.mark.usefixtures("warm")


def train(recipe):
    return subprocess.run(
        [*FRAMEWORK, "train", str(recipe)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_tensorboard_and_offline_wandb_get_every_metric(write_recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = [{"type": "tensorboard"}, {"type": "wandb", "mode": "offline"}]
    ended = train(write_recipe(tracking={"trackers": trackers}))
    assert ended.returncode == 0, ended.stderr
    run = tmp_path / "run"
    rows = read_rows(run / "metrics.jsonl")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in written] == [row["step"] for row in rows]
    assert [value for _, value in written] == pytest.approx([row["loss"] for row in rows])
    (offline,) = (run / "wandb").glob("offline-run-*/*.wandb")
    assert b"tokens_per_second" in offline.read_bytes()


@pytest.mark.slow
def test_wandb_is_told_whether_the_run_failed(write_recipe, tmp_path):
    trackers = [{"type": "wandb", "mode": "offline"}]
    recipe = write_recipe(tracking={"trackers": trackers}, trainer={"max_steps": 1})
    ended = train(recipe)
    assert ended.returncode == 0, ended.stderr
    assert exit_codes_of_wandb(tmp_path / "run") == [0]
    shutil.rmtree(tmp_path / "run")
    broken = write_recipe(
        tracking={"trackers": trackers}, trainer={"max_steps": 3, "learning_rate": 1e38}
    )
    ended = train(broken)
    assert ended.returncode == 1, ended.stderr
    assert exit_codes_of_wandb(tmp_path / "run") == [1]


def exit_codes_of_wandb(run):
    """What the offline files, logs in LevelDB's format, say of the process's end."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    found = []
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        content, at, record = path.read_bytes(), 7, b""
        while at + 7 <= len(content):
            if (at % 32768) + 7 > 32768:
                at += 32768 - at % 32768
                continue
            length, kind = struct.unpack_from("<4xHB", content, at)
            record += content[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                parsed = Record.FromString(record)
                record = b""
                if parsed.HasField("exit"):
                    found.append(parsed.exit.exit_code)
    return found


@pytest.mark.slow
def test_after_a_restart_both_have_one_run_with_each_step_once(write_recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = [{"type": "tensorboard"}, {"type": "wandb", "mode": "offline"}]
    recipe = write_recipe(
        tracking={"trackers": trackers}, trainer={"max_steps": 4}, checkpoint={"every_steps": 2}
    )
    run = tmp_path / "run"
    first = train(recipe)
    (run / "checkpoints" / "step-00000004" / "manifest.json").unlink()
    second = train(recipe)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "goes on after step 2" in second.stderr
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    starts = [path.name for path in (run / "wandb").glob("offline-run-*")]
    assert len(starts) == 2
    (identifier,) = {name.rsplit("-", 1)[1] for name in starts}
    assert (run / "wandb" / "run_id.txt").read_text() == identifier


def test_wandb_without_a_login_says_how_to_go_on(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    ended = train(write_recipe(tracking={"trackers": ["wandb"]}))
    assert ended.returncode == 1
    assert "tracking.trackers: `wandb` can't begin: No API key configured." in ended.stderr
    assert "or write mode: offline" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_its_package_a_tracker_is_refused_by_name(write_recipe):
    """A process in which the package can't be found, as where the extra is not installed."""
    recipe = write_recipe(tracking={"trackers": ["wandb"]})
    code = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'wandb' else find(name, *rest)\n"
        "from framework import check\n"
        "print(*check(sys.argv[1]), sep='\\n')\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(recipe)], capture_output=True, text=True, check=True
    ).stdout
    assert "tracking.trackers: needs the package 'wandb'" in said
    assert "pip install 'framework[wandb]'" in said
