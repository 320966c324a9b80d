"""A run goes on over the model that it was started with, wherever that is, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from e2e.test_later_starts import cut, interrupted, train
from safetensors.torch import load_file, save_file
from warm_start import framework

pytestmark = pytest.mark.usefixtures("warm")

LORA = {"adapter": {"type": "lora", "r": 4}}


@pytest.fixture
def model(tiny_model_dir, tmp_path) -> Path:
    """A model that may be changed."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def other_weights(model: Path) -> None:
    """Weights of the same names, shapes and number of bytes."""
    file = model / "model.safetensors"
    changed = {name: weight * 1.5 for name, weight in load_file(file).items()}
    save_file(changed, file, metadata={"format": "pt"})


def told(run: Path) -> dict[str, bytes]:
    """What says what the run is."""
    names = ("settings.json", "resolved.yaml", "lock.json")
    return {name: (run / name).read_bytes() for name in names}


def test_other_weights_at_the_same_place_are_refused_until_they_are_put_back(
    write_recipe, model, tmp_path
):
    recipe = interrupted(write_recipe, **LORA, **{"model.source": str(model)})
    file, kept, before = model / "model.safetensors", tmp_path / "kept", told(tmp_path / "run")
    shutil.copy(file, kept)
    other_weights(model)
    assert file.stat().st_size == kept.stat().st_size
    other = train(recipe)
    assert other.returncode == 3, other.stderr
    assert f"model.source: {str(file)!r} is changed since the run was started" in other.stderr
    assert "put it back as it was (lock.json has its SHA-256)" in other.stderr
    assert told(tmp_path / "run") == before
    # Of the same bytes, though not of the same time.
    shutil.copy(kept, file)
    again = train(recipe)
    assert again.returncode == 0, again.stderr
    assert "going on after step 2" in again.stderr


def test_files_more_and_less_are_refused_and_what_is_not_computed_with_is_said(
    write_recipe, model, tmp_path
):
    recipe = interrupted(write_recipe, **LORA, **{"model.source": str(model)})
    (model / "extra.safetensors").touch()
    more = train(recipe)
    assert more.returncode == 3
    assert "extra.safetensors' is new since" in more.stderr
    assert "move it out of the folder to go on" in more.stderr
    (model / "extra.safetensors").unlink()

    settings = model / "generation_config.json"
    settings.write_text(settings.read_text() + "\n")
    again = train(recipe)
    assert again.returncode == 0, again.stderr
    assert f"not as the run was started: model.source: {str(settings)!r} is changed" in again.stderr
    lock = json.loads((tmp_path / "run" / "lock.json").read_text())
    assert lock["later_starts"] == [{"files": {str(settings): "changed"}}]


def test_a_model_may_move_if_it_stays_what_it_is(write_recipe, model, tmp_path):
    recipe = interrupted(write_recipe, **LORA, **{"model.source": str(model)})
    run, before = tmp_path / "run", told(tmp_path / "run")
    other = Path(shutil.copytree(model, tmp_path / "other"))
    other_weights(other)
    refused = train(recipe, f"model.source={other}")
    assert refused.returncode == 3, refused.stderr
    assert f"write `model.source.path: {model}` to go on with it" in refused.stderr
    assert f"model.source: {str(other / 'model.safetensors')!r} is changed" in refused.stderr
    assert told(run) == before

    moved = model.rename(tmp_path / "moved")
    again = train(recipe, f"model.source={moved}")
    assert again.returncode == 0, again.stderr
    assert "going on after step 2" in again.stderr
    assert f"not as the run was started: model.source.path: was {model}, is {moved}" in again.stderr


def test_a_lock_without_times_is_held_against_the_bytes(write_recipe, model, tmp_path):
    recipe = interrupted(write_recipe, **LORA, **{"model.source": str(model)})
    run = tmp_path / "run"
    lock = json.loads((run / "lock.json").read_text())
    for one in lock["model"]["files"]:
        del one["modified_ns"]
    (run / "lock.json").write_text(json.dumps(lock))
    again = train(recipe)
    assert again.returncode == 0, again.stderr
    cut(run)
    other_weights(model)
    assert train(recipe).returncode == 3


def test_another_teacher_is_refused_under_its_key(write_recipe, model, tiny_model_dir):
    teacher = {"type": "distillation", "teacher": str(model)}
    recipe = interrupted(write_recipe, trainer={**teacher, "max_steps": 4})
    other_weights(model)
    other = train(recipe)
    assert other.returncode == 3, other.stderr
    assert f"trainer.teacher: {str(model / 'model.safetensors')!r} is changed" in other.stderr


def test_a_file_is_not_read_that_has_the_size_and_time_that_it_had(write_recipe, model):
    recipe = interrupted(write_recipe, **LORA, **{"model.source": str(model)})
    file = model / "model.safetensors"
    was = file.stat()
    other_weights(model)
    # So that it can be told whether it was read.
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    again = train(recipe)
    assert again.returncode == 0, again.stderr


def test_an_adapter_is_not_put_on_other_weights_than_it_was_trained_over(
    write_recipe, model, tmp_path
):
    recipe = write_recipe(**LORA, **{"model.source": str(model)})
    assert train(recipe).returncode == 0
    run, kept = tmp_path / "run", tmp_path / "kept"
    shutil.copy(model / "model.safetensors", kept)
    verbs = (
        ("chat", run),
        ("chat", run, "--base"),
        ("merge", run, "--output", tmp_path / "merged"),
        ("combine", run, run, "--output", tmp_path / "combined"),
    )
    other_weights(model)
    for verb in verbs:
        refused = framework(*verb, input="")
        assert refused.returncode == 3, refused.stderr
        assert f"{str(model / 'model.safetensors')!r} is changed since" in refused.stderr
    assert not (tmp_path / "merged").exists() and not (tmp_path / "combined").exists()
    shutil.copy(kept, model / "model.safetensors")
    for verb in verbs:
        assert framework(*verb, input="").returncode == 0


def test_a_whole_model_is_talked_to_whatever_became_of_what_it_started_from(write_recipe, model):
    recipe = write_recipe(**{"model.source": str(model)})
    assert train(recipe).returncode == 0
    other_weights(model)
    assert framework("chat", recipe.parent / "run", input="").returncode == 0
    assert framework("chat", recipe.parent / "run", "--base", input="").returncode == 3
