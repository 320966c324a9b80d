"""A checkpoint is whole or it is not used; the last good one outlives every failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from framework.core.problems import Refused
from framework.engine.checkpoint import (
    Progress,
    checkpoint_name,
    newest_checkpoint,
    read_progress,
    save_checkpoint,
)


def save(folder: Path, step: int, keep_last: int = 2, content: str = "weights") -> Path:
    def save_state(part: Path) -> None:
        (part / "weights").write_text(content)

    return save_checkpoint(
        folder,
        Progress(step=step, num_tokens=7),
        {"last_epoch": step},
        "data",
        save_state,
        keep_last,
    )


def test_the_newest_is_found_and_says_how_far_it_is(tmp_path):
    save(tmp_path, 3)
    save(tmp_path, 12)
    path, warnings = newest_checkpoint(tmp_path)
    assert (path.name, warnings) == (checkpoint_name(12), [])
    progress, scheduler = read_progress(path, "data")
    assert (progress.step, progress.num_tokens, scheduler) == (12, 7, {"last_epoch": 12})


def test_only_the_last_are_kept(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep_last=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        checkpoint_name(4),
        checkpoint_name(5),
    ]


@pytest.mark.parametrize("harm", ["cut", "flip", "delete", "no manifest"])
def test_a_damaged_one_is_named_set_aside_and_skipped(tmp_path, harm):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    file = newest / "weights"
    if harm == "cut":
        file.write_text("weight")
    elif harm == "flip":
        file.write_text("weightz")
    elif harm == "delete":
        file.unlink()
    else:
        (newest / "manifest.json").unlink()
    path, warnings = newest_checkpoint(tmp_path)
    assert path.name == checkpoint_name(1)
    assert checkpoint_name(2) in warnings[0].file
    assert (tmp_path / f"damaged-{checkpoint_name(2)}-1").is_dir()


def test_a_full_disk_leaves_the_earlier_one_and_nothing_half_written(tmp_path):
    save(tmp_path, 1)

    def disk_full(part: Path) -> None:
        (part / "weights").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, Progress(step=2), {}, "data", disk_full, 1)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint_name(1)]
    assert newest_checkpoint(tmp_path)[0].name == checkpoint_name(1)


def test_a_folder_that_was_not_finished_is_never_a_checkpoint(tmp_path):
    save(tmp_path, 1)
    part = tmp_path / f".{checkpoint_name(2)}.part-x"
    part.mkdir()
    (part / "manifest.json").write_text(json.dumps({"files": {}}))
    assert newest_checkpoint(tmp_path)[0].name == checkpoint_name(1)


def test_other_data_is_refused(tmp_path):
    path = save(tmp_path, 1)
    with pytest.raises(Refused, match="other data"):
        read_progress(path, "changed")
