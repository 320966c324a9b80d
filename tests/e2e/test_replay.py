"""A run's lock runs again and is the same bit for bit, or says what is not as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import warm_start
import yaml
from conftest import conversation, make_tiny_model, read_rows, write_rows

pytestmark = pytest.mark.usefixtures("warm")

CHANGED = 5
"""The row, from 1, that tests change."""


def framework(*arguments: object, code: int = 0) -> str:
    """What the command says, which has to end with `code`."""
    ended = warm_start.framework(*arguments)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def on_two(*arguments: object, code: int = 0) -> str:
    """The same, of two processes; the main one has to end with `code`, the other with 0."""
    ended = warm_start.run_group([*map(str, arguments)], 2)
    assert ended.codes == [code, 0], ended.output
    return ended.output


@dataclass(frozen=True)
class Trained:
    """A run of three steps, in a folder of its own with its data and its model."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def edited(self, name: str, edit: Callable[[dict[str, Any]], None]) -> Path:
        """A copy of the run whose lock is another one."""
        copy = self.folder / name
        shutil.copytree(self.run, copy)
        lock = json.loads((copy / "lock.json").read_text(encoding="utf-8"))
        edit(lock)
        (copy / "lock.json").write_text(json.dumps(lock), encoding="utf-8")
        return copy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    make_tiny_model(folder / "model")
    write_rows(folder / "train.jsonl", [conversation(number) for number in range(16)])
    values = {
        "model": {"source": str(folder / "model"), "dtype": "float32"},
        "data": {"train": [{"source": "./train.jsonl"}], "max_length": 128, "packing": False},
        "adapter": {"type": "lora", "r": 4, "lora_dropout": 0.1},
        "trainer": {"global_batch_size": 4, "max_steps": 3, "learning_rate": 1e-3},
        "output": {"dir": str(folder / "run")},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    framework("train", folder / "recipe.yaml")
    return Trained(folder)


@pytest.fixture
def put_back(trained: Trained) -> Iterator[None]:
    """Data and model are as they were when the test ends."""
    kept = {name: (trained.folder / name).read_bytes() for name in ("train.jsonl", WEIGHTS)}
    yield
    for name, content in kept.items():
        (trained.folder / name).write_bytes(content)


WEIGHTS = "model/model.safetensors"


def test_a_run_is_repeated_bit_for_bit(trained, tmp_path):
    said = framework("replay", trained.run, "-o", tmp_path / "again")
    assert "before training: recipe, data, model, packages and hardware are the same" in said
    assert "the same bit for bit in 3 steps" in said
    assert "final weights: the same bit for bit" in said
    found = json.loads((tmp_path / "again" / "replay.json").read_text())
    assert found["same"] and found["same_weights"] and found["num_steps"] == 3
    lock = json.loads((trained.run / "lock.json").read_text())
    assert lock["seeds"]["trainer.seed"] == "42"
    assert len(lock["model"]["files"]) > 2 and len(lock["chat_template_sha256"]) == 64
    said = framework("replay", trained.run, "-o", tmp_path / "again", code=3)
    assert "is not empty" in said


def test_a_run_of_all_weights_that_was_interrupted_is_repeated_bit_for_bit(write_recipe, tmp_path):
    recipe = write_recipe(strategy="auto", trainer={"max_steps": 4}, checkpoint={"every_steps": 2})
    run = tmp_path / "run"
    framework("train", recipe)
    (run / "checkpoints" / "step-00000004" / "manifest.json").unlink()
    assert "going on after step 2" in framework("train", recipe)
    said = framework("replay", run)
    assert "before training: recipe, data, model, packages and hardware are the same" in said
    # What `auto` was then may not be what it would be now.
    assert json.loads((run / "lock.json").read_text())["recipe"]["strategy"] == {"type": "ddp"}
    assert "the run was interrupted and went on; what had changed then: nothing" in said
    assert "the same bit for bit in 4 steps" in said
    assert "final weights: the same bit for bit" in said
    assert (tmp_path / "run-replay" / "replay.json").is_file()


def test_a_damaged_line_takes_no_other_rows_with_it_on_resume(write_recipe, tmp_path):
    recipe = write_recipe(trainer={"max_steps": 4}, checkpoint={"every_steps": 2})
    run = tmp_path / "run"
    framework("train", recipe)
    written = (run / "samples.jsonl").read_text().splitlines()
    (run / "samples.jsonl").write_text("\n".join(["{damaged", *written[1:], "{cut sho"]))
    (run / "checkpoints" / "step-00000004" / "manifest.json").unlink()
    assert "going on after step 2" in framework("train", recipe)
    assert (run / "samples.jsonl").read_text().splitlines() == ["{damaged", *written[1:]]
    said = framework("replay", run)
    assert f"{run}/samples.jsonl: line 1 can't be read and is left out" in said
    assert "the same bit for bit in 3 steps" in said
    assert json.loads((tmp_path / "run-replay" / "replay.json").read_text())["unread"]


def test_a_changed_row_is_named_with_its_line_before_training(trained, put_back, tmp_path):
    rows = read_rows(trained.folder / "train.jsonl")
    rows[CHANGED - 1]["messages"][-1]["content"] = "The capital is elsewhere."
    write_rows(trained.folder / "train.jsonl", rows)
    said = framework("replay", trained.run, "--steps", 1, "-o", tmp_path / "again", code=1)
    place = f"{trained.folder / 'train.jsonl'}:{CHANGED}"
    assert f"before training: row {CHANGED} of train0 ({place}) is changed" in said
    assert "different: step 1: sample ids was [" in said
    assert f"likely cause: row {CHANGED} of train0" in said


@pytest.mark.slow
def test_a_run_of_two_processes_is_repeated_bit_for_bit_or_its_changed_row_is_named(
    trained, put_back, tmp_path
):
    run = tmp_path / "run"
    on_two("train", trained.folder / "recipe.yaml", f"output.dir={run}", "trainer.max_steps=4")
    said = on_two("replay", run)
    assert "the same bit for bit in 4 steps" in said
    assert "final weights: the same bit for bit" in said
    # Nothing is told of an end that was wanted.
    assert "the same bit for bit in 2 steps" in on_two(
        "replay", run, "--steps=2", "-o", tmp_path / "2"
    )

    alone = framework("replay", run, "-o", tmp_path / "alone", code=2)
    assert "the run had 2 processes, this is 1; start it so: " in alone
    rows = read_rows(trained.folder / "train.jsonl")
    rows[CHANGED - 1]["messages"][-1]["content"] = "The capital is elsewhere."
    write_rows(trained.folder / "train.jsonl", rows)
    said = on_two("replay", run, "-o", tmp_path / "again", code=1)
    place = f"{trained.folder / 'train.jsonl'}:{CHANGED}"
    assert said.count(f"before training: row {CHANGED} of train0 ({place}) is changed") == 1
    assert "different: step 1: sample ids was [" in said
    assert f"likely cause: row {CHANGED} of train0" in said
    assert [row["step"] for row in read_rows(tmp_path / "again" / "samples.jsonl")] == [1]


def test_it_stops_at_the_first_difference(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    metrics = read_rows(run / "metrics.jsonl")
    metrics[1]["grad_norm"] *= 1.5
    write_rows(run / "metrics.jsonl", metrics)
    said = framework("replay", run, "-o", tmp_path / "again", code=1)
    assert "different: step 2: gradient norm was " in said
    assert "no cause is known" in said
    assert [row["step"] for row in read_rows(tmp_path / "again" / "samples.jsonl")] == [1, 2]
    assert not (tmp_path / "again" / "final").exists()
    assert json.loads((tmp_path / "again" / "replay.json").read_text())["num_steps"] == 1


def test_a_step_that_only_one_of_them_left_out_is_a_difference(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    samples = read_rows(run / "samples.jsonl")
    samples[2]["left_out"] = True
    write_rows(run / "samples.jsonl", samples)
    said = framework("replay", run, "-o", tmp_path / "again", code=1)
    assert "different: step 3: left out was True, is False" in said


@pytest.mark.slow
def test_a_changed_file_of_a_teacher_or_of_an_adapter_is_named(trained, put_back, tmp_path):
    teacher = make_tiny_model(tmp_path / "teacher")
    adapter = shutil.copytree(trained.run / "final", tmp_path / "adapter")
    run = tmp_path / "run"
    overrides = [f"output.dir={run}", "trainer.max_steps=1", f"adapter.start_from={adapter}"]
    overrides += ["trainer.type=distillation", f"trainer.teacher={teacher}"]
    framework("train", trained.folder / "recipe.yaml", *overrides)
    (teacher / "tokenizer_config.json").write_text(
        (teacher / "tokenizer_config.json").read_text() + "\n"
    )
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "inference_mode": True}))
    said = framework("replay", run, "-o", tmp_path / "again")
    changed = teacher / "tokenizer_config.json"
    assert f"made no difference: trainer.teacher: file {changed} is changed" in said
    changed = adapter / "adapter_config.json"
    assert f"made no difference: adapter.start_from: file {changed} is changed" in said
    # Elsewhere, but the same: no difference.
    (teacher / "tokenizer_config.json").write_text(
        (teacher / "tokenizer_config.json").read_text()[:-1]
    )
    moved = shutil.copytree(teacher, tmp_path / "moved")
    said = framework("replay", run, f"trainer.teacher.path={moved}", "-o", tmp_path / "elsewhere")
    assert "trainer.teacher" not in said


def test_a_changed_model_file_is_named(trained, put_back, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(trained.folder / WEIGHTS)
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] * 1.01
    save_file(weights, trained.folder / WEIGHTS, metadata={"format": "pt"})
    said = framework("replay", trained.run, "--steps", 1, "-o", tmp_path / "again", code=1)
    assert "different: step 1: loss was " in said
    assert "the first sample that differs is train0:" in said
    assert f"likely cause: model file {trained.folder / WEIGHTS} is changed" in said


def test_a_changed_setting_is_named(trained, tmp_path):
    def edit(lock: dict[str, Any]) -> None:
        lock["recipe"]["trainer"]["learning_rate"] = 2e-3

    run = trained.edited("other-rate", edit)
    said = framework("replay", run, "--steps", 2, "-o", tmp_path / "edited", code=1)
    assert "different: step 1: learning rate was 0.001, is 0.002" in said
    assert "likely cause: setting trainer.learning_rate: was 0.001, is 0.002" in said
    said = framework(
        "replay", trained.run, "adapter.r=2", "--steps", 2, "-o", tmp_path / "given", code=1
    )
    assert "likely cause: setting adapter.r: was 4, is 2" in said


@pytest.fixture(scope="module")
def seldom_logged(trained: Trained) -> Path:
    """A run of four steps, of which `metrics.jsonl` has the last alone."""
    run = trained.folder / "seldom-logged"
    overrides = (f"output.dir={run}", "trainer.max_steps=4", "tracking.log_steps=4")
    framework("train", trained.folder / "recipe.yaml", *overrides)
    return run


def test_steps_that_were_not_logged_are_compared_by_the_losses_of_their_samples(
    seldom_logged, tmp_path
):
    rate = "trainer.learning_rate=9"
    said = framework("replay", seldom_logged, rate, "--steps", 3, "-o", tmp_path / "fast", code=1)
    assert "different: step 2: loss of train0:" in said
    assert "likely cause: setting trainer.learning_rate: was 0.001, is 9.0" in said

    said = framework("replay", seldom_logged, "--steps", 3, "-o", tmp_path / "same")
    assert "the same bit for bit in 3 steps: sample ids, losses of samples\n" in said
    assert "in none of them, and so not compared: learning rates, losses, gradient norms" in said
    found = json.loads((tmp_path / "same" / "replay.json").read_text())
    assert found["compared"] == {
        "sample ids": 3,
        "losses of samples": 3,
        "learning rates": 0,
        "losses": 0,
        "gradient norms": 0,
    }

    said = framework("replay", seldom_logged, "-o", tmp_path / "whole")
    assert "the same bit for bit in 4 steps: sample ids, losses of samples\n" in said
    assert "in 1 of them: learning rates, losses, gradient norms\n" in said


def test_of_a_setting_whose_effect_was_not_compared_nothing_is_said(seldom_logged, tmp_path):
    """The losses of step 1 are from before its update."""
    rate = "trainer.learning_rate=9"
    said = framework("replay", seldom_logged, rate, "--steps", 1, "-o", tmp_path / "again")
    assert "may make a difference that was not compared: setting trainer.learning_rate" in said
    assert "made no difference" not in said


def test_another_version_of_a_package_is_named_and_allows_for_last_digits(trained, tmp_path):
    def edit(lock: dict[str, Any]) -> None:
        lock["packages"]["torch"] = "1.0"

    run = trained.edited("other-torch", edit)
    metrics = read_rows(run / "metrics.jsonl")
    metrics[1]["loss"] *= 1 + 1e-5
    write_rows(run / "metrics.jsonl", metrics)
    said = framework("replay", run, "--steps", 2, "-o", tmp_path / "near")
    assert "before training: package torch: was 1.0, is 2." in said
    assert "the same within 0.001 (largest difference 1e-05) in 2 steps" in said
    metrics[1]["loss"] *= 1.1
    write_rows(run / "metrics.jsonl", metrics)
    said = framework("replay", run, "--steps", 2, "-o", tmp_path / "far", code=1)
    assert "different: step 2: loss was " in said
    assert "likely cause: package torch: was 1.0, is 2." in said
