"""`framework plan` before anything is there but a configuration."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from warm_start import FRAMEWORK

from framework.tracing.hindsight import plan_again

pytestmark = pytest.mark.usefixtures("warm")


def plan(recipe: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*FRAMEWORK, "plan", str(recipe), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def large(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A folder whose configuration is that of Llama 3 8B, and whose weights are none."""
    folder = tmp_path / "large"
    folder.mkdir()
    for file in tiny_model_dir.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "head_dim": 128,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
    }
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_what_does_not_fit_comes_with_lines_that_do(write_recipe: Callable[..., Path], large: Path):
    recipe = write_recipe(
        model={"source": str(large), "dtype": "bfloat16"},
        data={"max_length": 1024},
        trainer={"global_batch_size": 16, "micro_batch_size": 8},
    )
    done = plan(recipe, "--devices", "2xA100-80GB", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["num_devices"], found["num_steps"], found["fits"]) == (2, 3, False)
    assert found["num_parameters"] == found["num_trained_parameters"] == 8_030_261_248
    assert sum(found["memory"].values()) == found["peak_bytes_per_device"]
    assert found["memory"]["weights"] == 2 * 8_030_261_248
    assert found["memory"]["gradients"] == 2 * 8_030_261_248
    assert found["memory"]["optimizer"] == pytest.approx(4 * 8_030_261_248, rel=1e-5)
    assert not found["lengths"]["exact"]
    *others, last = found["changes"]
    assert last["fits"] and not any(one["fits"] for one in others)
    assert last["peak_bytes"] < found["peak_bytes_per_device"]
    assert "model.gradient_checkpointing: true" in last["lines"]
    (gradients,) = found["communication_per_step"]
    assert gradients["collective"] == "all_reduce"
    assert gradients["sent_bytes"] == 2 * 8_030_261_248


def test_a_configuration_alone_is_planned_and_what_is_lacking_is_said(
    write_recipe: Callable[..., Path], tiny_model_dir: Path, tmp_path: Path
):
    # A length that no other test prepares the same rows with.
    settings = {"adapter": "lora", "data.max_length": 61}
    whole = write_recipe("whole.yaml", **settings)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "config.json").symlink_to(tiny_model_dir / "config.json")
    recipe = write_recipe(model={"source": str(alone)}, **settings)
    found, expected = (
        json.loads(plan(one, "--json", "--devices", "T4-16GB").stdout) for one in (recipe, whole)
    )
    assert found.pop("lacking") == ["weights", "tokenizer"]
    assert expected.pop("lacking") == []
    assert found == expected
    said = plan(recipe).stdout
    assert "planned from the model's config.json: there are no weights, no tokenizer" in said
    assert "estimated: the data are not prepared" in said

    refused = [*FRAMEWORK, "check", str(recipe)]
    done = subprocess.run(refused, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has no weights" in done.stdout + done.stderr

    (alone / "config.json").unlink()
    done = plan(recipe)
    assert done.returncode == 2
    assert "has no config.json" in done.stderr


def test_a_table_is_printed_and_prepared_data_are_exact(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = write_recipe()
    before = plan(recipe)
    assert before.returncode == 0, before.stderr
    assert "estimated: the data are not prepared" in before.stdout
    command = [*FRAMEWORK, "prepare", str(recipe)]
    subprocess.run(command, capture_output=True, check=True)
    after = plan(recipe)
    assert "exact: prepared data" in after.stdout
    assert "tokens a second" in after.stdout
    assert "fits" in after.stdout


def test_an_unknown_device_ends_before_anything_else(write_recipe: Callable[..., Path]):
    done = plan(write_recipe(), "--devices", "3xMAINFRAME")
    assert done.returncode == 2
    assert "MAINFRAME" in done.stderr and "H100-80GB" in done.stderr


def test_of_prepared_data_all_tokens_of_the_run_are_known(
    write_recipe: Callable[..., Path], tmp_path: Path
):
    # The last step of an epoch has 1 sample of 5, and all begin alike.
    batch = {"global_batch_size": 5, "num_train_epochs": 2, "max_steps": None}
    recipe = write_recipe(trainer=batch, data={"packing": False})
    command = [*FRAMEWORK, "train", str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [row for row in map(json.loads, lines) if "num_tokens" in row]
    found = json.loads(plan(recipe, "--json").stdout)
    assert found["lengths"]["exact"]
    assert (found["num_steps"], found["num_tokens"]) == (8, steps[-1]["num_tokens"])


def test_a_report_shows_what_was_planned_beside_what_was_taken(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # What is measured with one thread is kept, however busy the machine is.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = write_recipe(trainer={"max_steps": 1})
    for verb, path in (("train", recipe), ("report", tmp_path / "run")):
        command = [*FRAMEWORK, verb, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    planned = json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))
    memory = planned["planned_memory"]
    assert planned["num_steps"] == 1
    assert memory["lengths"]["exact"]
    assert sum(memory["memory"].values()) == memory["peak_bytes_per_device"] > 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "more than at its start with what libraries take; planned" in page
    fast, slow = planned["planned_time"]["step_seconds"]
    assert 0 < fast < slow
    assert planned["planned_time"]["device"] == "cpu"
    assert "in optimizer steps; planned" in page
    run = tmp_path / "run"
    _forget_plan(run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with FileLock(run / ".lock"):
        plan_again(run)
    beside = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    assert "planned_memory" in beside and "planned_time" not in beside
    plan_again(run)
    after = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    assert after["planned_time"]["peak_tflops"]
    _forget_plan(run)
    with FileLock(run / ".lock"):
        plan_again(run)
    kept = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    assert kept["planned_time"]["peak_tflops"] == after["planned_time"]["peak_tflops"]
    # Of another machine's CPU nothing is known.
    lock = json.loads((run / "lock.json").read_text(encoding="utf-8"))
    lock["hardware"]["cpu"] = "Abacus 3000"
    (run / "lock.json").write_text(json.dumps(lock), encoding="utf-8")
    _forget_plan(run)
    plan_again(run)
    again = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    assert again["planned_memory"]["memory"] == after["planned_memory"]["memory"]
    assert again["planned_time"] is None


def _forget_plan(run: Path) -> None:
    planned = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    for name in ("planned_time", "planned_memory"):
        del planned[name]
    (run / "plan.json").write_text(json.dumps(planned), encoding="utf-8")
