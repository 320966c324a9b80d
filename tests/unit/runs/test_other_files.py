"""A lock knows every file that decides what a run computes, wherever the recipe names it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from framework.core import atomic
from framework.recipe.resolve import resolve
from framework.runs.model_files import model_files
from framework.runs.other_files import other_places

NAMES = ("a.json", "b.json")


@pytest.fixture
def places(write_recipe, tmp_path):
    """What a recipe with these sections names besides data and model."""

    def named(**sections) -> dict[str, Path]:
        return other_places(resolve(write_recipe(**sections)))

    return named


def test_data_and_the_model_that_is_trained_are_locked_elsewhere(places):
    assert places() == {}


def test_a_teacher_is_a_folder(places, tiny_judge_dir):
    trainer = {"type": "distillation", "teacher": str(tiny_judge_dir)}
    assert places(trainer=trainer) == {"trainer.teacher": tiny_judge_dir}


def test_reward_models_and_files_of_rewards_are_found_in_their_list(
    write_online, tiny_judge_dir, tmp_path
):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    rewards = [
        {"type": "length", "at_most": 5},
        {"type": "reward_model", "source": str(tiny_judge_dir)},
        {"type": "json_schema", "path": str(schema)},
    ]
    found = other_places(resolve(write_online("grpo", rewards=rewards)))
    assert found == {"trainer.rewards[1].source": tiny_judge_dir, "trainer.rewards[2].path": schema}


def test_a_single_file_is_hashed_as_the_files_of_a_folder_are(tmp_path):
    file = tmp_path / "reward.py"
    file.write_bytes(b"def reward(): ...")
    (written,) = model_files(file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    modified = file.stat().st_mtime_ns
    assert written == {"name": ".", "size_bytes": 17, "modified_ns": modified, "sha256": sha256}


def test_a_manifest_is_believed_of_files_that_are_older_than_itself(tmp_path):
    folder = tmp_path / "final"
    atomic.write_folder(folder, lambda part: [(part / name).write_text(name) for name in NAMES])
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in NAMES]
    assert [one["sha256"] for one in model_files(folder)] == hashes
    (folder / "a.json").write_text("b.json")
    later = (folder / atomic.MANIFEST).stat().st_mtime_ns + 1
    os.utime(folder / "a.json", ns=(later, later))
    assert [one["sha256"] for one in model_files(folder)] == [hashes[1], hashes[1]]


def test_a_manifest_is_not_believed_of_an_older_file_that_was_moved_in(tmp_path):
    older, folder = tmp_path / "older", tmp_path / "final"
    older.write_text("b.json")

    def make(part: Path) -> None:
        (part / "a.json").write_text("a.json")

    atomic.write_folder(folder, make)
    written_ns = (folder / atomic.MANIFEST).stat().st_ctime_ns
    older.rename(folder / "a.json")
    # A file system's clock ticks a few hundred times a second.
    while (folder / "a.json").stat().st_ctime_ns <= written_ns:
        os.utime(folder / "a.json", ns=(0, 0))
    (written,) = model_files(folder)
    assert written["sha256"] == hashlib.sha256(b"b.json").hexdigest()
