"""A run that goes wrong says what to do and loses nothing."""

from __future__ import annotations

import resource
import signal
import time
from functools import partial

import pytest
from conftest import read_rows
from warm_start import framework

from framework.engine.checkpoint import newest_checkpoint

pytestmark = pytest.mark.usefixtures("warm")


train = partial(framework, "train")


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_samples(write_recipe, tmp_path):
    recipe = write_recipe(
        model={"dtype": "float32"},
        trainer={
            "optimizer": "sgd",
            "learning_rate": 1e30,
            "max_grad_norm": None,
            "lr_scheduler_type": "constant",
            "max_steps": 20,
        },
        checkpoint={"every_steps": 1},
    )
    ended = train(recipe)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "loss is nan" in ended.stderr or "gradient norm is" in ended.stderr
    run = tmp_path / "run"
    seen = read_rows(run / "samples.jsonl")[-1]
    assert all(identifier in ended.stderr for identifier in seen["ids"])
    assert f"step {seen['step']}:" in ended.stderr
    assert all(row["loss"] == row["loss"] for row in read_rows(run / "metrics.jsonl"))


def test_a_full_disk_leaves_the_last_checkpoint_and_can_be_resumed(write_recipe, tmp_path):
    recipe = write_recipe(trainer={"max_steps": 8}, checkpoint={"every_steps": 2})
    whole = train(recipe, f"output.dir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    cut = f"output.dir={tmp_path / 'cut'}"
    stopped = train(recipe, cut, "trainer.max_steps=8", preexec_fn=small_files)
    assert stopped.returncode == 1, stopped.stderr
    assert "free space and start the same command" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    checkpoints = tmp_path / "cut" / "checkpoints"
    assert list(checkpoints.glob("*")) == []
    assert newest_checkpoint(checkpoints) == (None, [])
    assert train(recipe, cut).returncode == 0
    weights = "model.safetensors"
    assert (tmp_path / "cut" / "final" / weights).read_bytes() == (
        tmp_path / "whole" / "final" / weights
    ).read_bytes()


def test_two_runs_in_one_directory_are_refused(write_recipe, launch, tmp_path):
    recipe = write_recipe(trainer={"max_steps": 5000})
    first = launch(recipe)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() and first.poll() is None:
        time.sleep(0.05)
    second = train(recipe)
    assert second.returncode == 3
    assert "another process is running in" in second.stderr
    assert first.poll() is None


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("no weights", "has no weights (*.safetensors)"),
        ("empty data", "holds no rows"),
        ("broken json", "train.jsonl:3"),
        ("not utf-8", "train.jsonl:3"),
        ("missing column", "messages"),
        ("unknown role", "wizard"),
        ("two users", "train.jsonl:1: data.train[0].format: messages has no assistant turn"),
        ("foreign directory", "holds files that are not from a run"),
    ],
)
def test_bad_input_is_named_with_its_place_and_a_hint(
    write_recipe, tmp_path, tiny_model_dir, harm, says
):
    recipe = write_recipe()
    rows = tmp_path / "train.jsonl"
    lines = rows.read_bytes().split(b"\n")
    if harm == "no weights":
        folder = tmp_path / "model"
        folder.mkdir()
        for file in tiny_model_dir.iterdir():
            if file.suffix != ".safetensors":
                (folder / file.name).write_bytes(file.read_bytes())
        recipe = write_recipe(**{"model.source": str(folder)})
    elif harm == "empty data":
        rows.write_bytes(b"")
    elif harm == "broken json":
        rows.write_bytes(b"\n".join([*lines[:2], lines[2][:-9], *lines[3:]]))
    elif harm == "not utf-8":
        rows.write_bytes(b"\n".join([*lines[:2], lines[2].replace(b"what", b"\xff"), *lines[3:]]))
    elif harm == "missing column":
        rows.write_bytes(rows.read_bytes().replace(b'"messages"', b'"mesages"'))
    elif harm == "unknown role":
        rows.write_bytes(rows.read_bytes().replace(b'"system"', b'"wizard"'))
    elif harm == "two users":
        rows.write_bytes(rows.read_bytes().replace(b'"assistant"', b'"user"'))
    else:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.tex").write_text("mine")
    ended = train(recipe)
    assert ended.returncode in {2, 3}, ended.stderr
    assert "Traceback" not in ended.stderr
    assert says in ended.stderr
    assert not (tmp_path / "run" / "final").exists()
    if harm == "foreign directory":
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_token_that_exists_is_refused_where_the_recipe_adds_it(write_recipe, tmp_path):
    recipe = write_recipe(tokenizer={"add_tokens": ["<|new|>", "<|im_start|>"]})
    line = 1 + recipe.read_text().splitlines().index("  - <|im_start|>")
    ended = train(recipe)
    assert ended.returncode == 2, ended.stderr
    says = "tokenizer.add_tokens[1]: '<|im_start|>' is a token of this tokenizer already; remove it"
    assert f"{recipe}:{line}:5: {says}" in ended.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    other = f"output.dir={tmp_path / 'other'}"
    corrected = train(recipe, other, "tokenizer.add_tokens=[<|new|>]")
    assert corrected.returncode == 0, corrected.stderr
