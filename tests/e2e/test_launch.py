"""The real command in fresh processes: it trains, is interrupted, goes on, and is usable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import read_rows

LOAD_ELSEWHERE = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
assert not any(name == "framework" or name.startswith("framework.") for name in sys.modules)
base, final = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(final)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), final)
plain = AutoModelForCausalLM.from_pretrained(base)
ids = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Question 3: what is the capital of Norway?"}],
    add_generation_prompt=True, return_tensors="pt", return_dict=True)
with torch.no_grad():
    changed = (model(**ids).logits - plain(**ids).logits).abs().max().item()
print(json.dumps({"changed": changed, "eos": model.generation_config.eos_token_id}))
"""


def losses(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_rows(run / "metrics.jsonl") if "loss" in row]


def num_steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def worker_of(process: subprocess.Popen[str]) -> int:
    """The training process that accelerate started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def test_a_run_is_interrupted_resumed_and_its_result_loads_in_plain_libraries(
    write_recipe, launch, launched, tmp_path, tiny_model_dir
):
    recipe = write_recipe(
        adapter={"type": "lora", "r": 4, "lora_dropout": 0.1},
        trainer={"max_steps": 60, "learning_rate": 1e-2},
        checkpoint={"every_steps": 7},
        data={"eval": [{"source": "./eval.jsonl"}]},
        evaluation={"every_steps": 20},
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = launch(recipe, f"output.dir={whole}")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output

    process = launch(recipe, f"output.dir={cut}")
    while process.poll() is None and num_steps(cut) < 10:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[0]
    os.kill(worker_of(process), signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "stopped by a signal after step" in output
    done = losses(cut)[-1][0]
    assert 10 <= done < 60
    assert (cut / "checkpoints" / f"step-{done:08d}" / "manifest.json").is_file()

    assert f"going on after step {done}" in launched(recipe, f"output.dir={cut}")
    assert losses(cut) == losses(whole)
    assert [row["step"] for row in read_rows(cut / "samples.jsonl")] == list(range(1, 61))
    assert read_rows(cut / "samples.jsonl") == read_rows(whole / "samples.jsonl")
    weights = "adapter_model.safetensors"
    assert (cut / "final" / weights).read_bytes() == (whole / "final" / weights).read_bytes()
    assert len(list((cut / "checkpoints").iterdir())) == 2
    # An adapter on random weights learns little, but it learns.
    assert losses(whole)[-1][1] < 0.95 * losses(whole)[0][1]

    loaded = subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE, str(tiny_model_dir), str(cut / "final")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(loaded.stdout)["changed"] > 0.01


def test_a_finished_run_is_not_trained_again(write_recipe, launched, tmp_path):
    recipe = write_recipe()
    launched(recipe)
    first = read_rows(tmp_path / "run" / "metrics.jsonl")
    launched(recipe)
    assert read_rows(tmp_path / "run" / "metrics.jsonl") == first


def test_a_wrong_recipe_ends_before_anything_is_loaded_without_a_traceback(write_recipe, tmp_path):
    recipe = write_recipe(trainer={"learning_rat": 1})
    ended = subprocess.run(
        [sys.executable, "-m", "framework.train", str(recipe)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "learning_rat: is not a key here; did you mean 'learning_rate'?" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_directory_of_another_run_is_refused_and_untouched(write_recipe, launched, tmp_path):
    launched(write_recipe())
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    ended = subprocess.run(
        [sys.executable, "-m", "framework.train", str(write_recipe(trainer={"seed": 5}))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 3
    assert "trainer.seed: is 5, the run in" in ended.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_processes_that_do_not_know_each_other_are_refused(write_recipe):
    """What the launcher promises is compared with what really works together."""
    environment = {**os.environ, "RANK": "1", "WORLD_SIZE": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "framework.train", str(write_recipe())],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ended.returncode == 2
    assert "RANK=1 of WORLD_SIZE=1" in ended.stderr
