"""A checkpoint is whole or it is not used; the last good one outlives every failure."""

from __future__ import annotations

import importlib.metadata
import json
import random
import shutil
from pathlib import Path

import pytest

from framework.core import atomic
from framework.core.problems import Refused
from framework.engine.checkpoint import (
    Progress,
    best_checkpoint,
    checkpoint_name,
    newest_checkpoint,
    origin_of,
    read_progress,
    save_checkpoint,
)
from framework.recipe.schema import BestCheckpoint, Checkpoint

DEFAULT = Checkpoint()


def save(
    folder: Path,
    step: int,
    settings: Checkpoint = DEFAULT,
    content: str = "weights",
    evaluation: dict[str, float] | None = None,
) -> Path:
    def save_state(part: Path) -> None:
        (part / "weights").write_text(content)

    return save_checkpoint(
        folder,
        Progress(step=step, num_tokens=7),
        {"last_epoch": step},
        "data",
        save_state,
        settings,
        evaluation,
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
        save(tmp_path, step, Checkpoint(keep_last=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        checkpoint_name(4),
        checkpoint_name(5),
    ]


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.rsplit("-", 1)[1]) for path in folder.glob("step-*"))


def test_every_nth_stays_for_good(tmp_path):
    for step in range(1, 12):
        save(tmp_path, step, Checkpoint(keep_last=1, keep_every=4))
    assert steps(tmp_path) == [4, 8, 11]


@pytest.mark.parametrize(("mode", "best"), [("min", 3), ("max", 2)])
def test_the_best_one_stays_until_a_better_one_is_complete(tmp_path, mode, best):
    settings = Checkpoint(keep_last=1, keep_best=BestCheckpoint(metric="eval_loss", mode=mode))
    for step, loss in enumerate([5.0, 9.0, 1.0, float("nan"), 4.0], start=1):
        save(tmp_path, step, settings, evaluation={"eval_loss": loss})
    save(tmp_path, 6, settings)  # its step wasn't evaluated
    assert steps(tmp_path) == [best, 6]


def test_a_damaged_best_one_is_set_aside_for_the_next_best(tmp_path):
    best = BestCheckpoint(metric="eval_loss", mode="min")
    for step, loss in enumerate([2.0, 1.0, 3.0], start=1):
        save(tmp_path, step, Checkpoint(keep_last=3), evaluation={"eval_loss": loss})
    assert best_checkpoint(tmp_path, best) == (tmp_path / checkpoint_name(2), [])
    (tmp_path / checkpoint_name(2) / "weights").write_text("weighty")
    path, (warning,) = best_checkpoint(tmp_path, best)
    assert path == tmp_path / checkpoint_name(1)
    assert "damaged checkpoint" in str(warning) and "the next best one is used" in str(warning)


def test_the_last_good_one_is_there_until_the_next_is_complete(tmp_path):
    """At each moment of saving: what stands on disk, if the process died just then."""
    save(tmp_path, 1, Checkpoint(keep_last=1))
    seen: list[list[int]] = []

    def save_state(part: Path) -> None:
        seen.append(steps(tmp_path))
        (part / "weights").write_text("new")
        seen.append(steps(tmp_path))

    save_checkpoint(tmp_path, Progress(step=2), {}, "data", save_state, Checkpoint(keep_last=1))
    assert seen == [[1], [1]]
    assert steps(tmp_path) == [2]


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_each_of_fifty_random_faults_is_found_and_the_one_before_is_used(tmp_path, harm):
    source = tmp_path / "source"
    content = "".join(map(chr, random.Random(0).choices(range(32, 127), k=5000)))
    for step in (1, 2):
        save(source, step, content=content)
    num_files = 0
    for seed in range(50):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        shutil.copytree(source, folder)
        files = sorted((folder / checkpoint_name(2)).iterdir())
        num_files = len(files)
        file = files[seed % num_files]
        content_bytes = bytearray(file.read_bytes())
        at = chance.randrange(len(content_bytes))
        if harm == "flip":
            content_bytes[at] ^= 1 << chance.randrange(8)
        else:
            del content_bytes[at:]
        file.write_bytes(content_bytes)
        path, warnings = newest_checkpoint(folder)
        assert path is not None, seed
        assert path.name == checkpoint_name(1), (seed, file.name, at)
        assert checkpoint_name(2) in warnings[0].file
        assert (folder / f"damaged-{checkpoint_name(2)}-1").is_dir()
    assert num_files == 3, "weights, state and manifest are all harmed"


def test_every_flipped_bit_of_a_manifest_is_survived(tmp_path):
    """Whatever stands in it then: an answer, never an exception."""
    manifest = save(tmp_path, 1) / "manifest.json"
    whole = manifest.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(changed)
        assert atomic.damage(manifest.parent), (bit, bytes(changed))


def test_what_a_killed_process_left_is_cleared_by_the_next_save(tmp_path):
    save(tmp_path, 1)
    (tmp_path / f".{checkpoint_name(7)}.part-x").mkdir()
    save(tmp_path, 2)
    assert list(tmp_path.glob(".*")) == []


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
        save_checkpoint(tmp_path, Progress(step=2), {}, "data", disk_full, Checkpoint())
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


def test_a_checkpoint_knows_what_saved_it_and_the_next_start_says_what_changed(tmp_path):
    path = save(tmp_path, 3)
    now = importlib.metadata.version("torch")
    state = json.loads((path / "state.json").read_text())
    assert (state["num_processes"], state["versions"]["torch"]) == (1, now)
    assert origin_of(path, num_processes=1) == "goes on after step 3"
    state["versions"]["torch"] = "1.0"
    (path / "state.json").write_text(json.dumps(state))
    said = origin_of(path, num_processes=2)
    assert f"saved with torch 1.0 (now {now}), num_processes 1 (now 2): numbers" in said
