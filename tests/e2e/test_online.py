"""Whole runs of trainers that learn from their own answers."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import time

import pytest
from conftest import read_rows, write_rows
from warm_start import FRAMEWORK

from framework.core.problems import UserError
from framework.online.bench import Workbench
from framework.online.python_process import PythonProcess
from framework.recipe.resolve import resolve
from framework.train import run

pytestmark = pytest.mark.usefixtures("warm")

TRAINERS = ("grpo", "rloo", "ppo")
TIMES = {"tokens_per_second", "peak_rss_bytes"}


def rows_of(folder, name="metrics.jsonl"):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(folder / name)]


@pytest.mark.parametrize("method", TRAINERS)
def test_a_run_logs_rewards_answers_and_prompts_and_evaluates(method, write_online, tmp_path):
    held_out = {"eval": [{"source": "./prompts.jsonl", "format": "prompt_only", "rows": ":4"}]}
    path = write_online(method, data=held_out, micro_batch_size=4, num_generations=4)
    run(path)
    logged = rows_of(tmp_path / "run")
    first = logged[0]
    assert {"reward", "reward_exact_match", "completion_length", "truncated_ratio"} <= set(first)
    assert {"loss", "entropy", "clip_ratio", "grad_norm", "learning_rate"} <= set(first)
    assert "eval_reward" in logged[-1]
    assert logged[-1]["eval_loss"] == -logged[-1]["eval_reward"]
    answers = read_rows(tmp_path / "run" / "answers.jsonl")
    assert {"step", "id", "answer", "truncated", "rewards"} == set(answers[0])
    ids = read_rows(tmp_path / "run" / "samples.jsonl")[0]["ids"]
    assert len(ids) == 4  # 16 answers, 4 to each prompt
    assert answers[0]["id"] == ids[0]


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_steps_whose_rewards_are_all_equal_are_told_of(method, write_online, tmp_path):
    path = write_online(method)
    prompts = tmp_path / "prompts.jsonl"
    rows = [row | {"answer": ["no answer begins so"]} for row in read_rows(prompts)]
    write_rows(prompts, rows)
    run(path)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert [row["equal_groups_ratio"] for row in rows_of(tmp_path / "run")] == [1.0, 1.0]
    assert log.count("all answers to each prompt got equal rewards") == 1
    assert "rewards taught nothing in 2 of 2 steps" in log
    assert "tokens of prompts; trained are the model's own answers" in log
    assert "of them trained" not in log


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("grpo", {"num_iterations": 2, "beta": 0.1}),
        ("rloo", {}),
        ("ppo", {"num_iterations": 2}),
    ],
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    method, settings, write_online, tmp_path
):
    path = write_online(method, max_steps=4, **settings)
    run(path, [f"output.dir={tmp_path / 'whole'}", "checkpoint.every_steps=2"])
    run(path, [f"output.dir={tmp_path / 'parts'}", "checkpoint.every_steps=2"])
    parts = tmp_path / "parts"
    # As after a crash: what came after the checkpoint of step 2 is gone.
    shutil.rmtree(parts / "checkpoints" / "step-00000004")
    shutil.rmtree(parts / "final")
    run(path, [f"output.dir={parts}", "checkpoint.every_steps=2"])
    assert rows_of(parts) == rows_of(tmp_path / "whole")
    assert rows_of(parts, "answers.jsonl") == rows_of(tmp_path / "whole", "answers.jsonl")
    asked = [row["ids"] for row in rows_of(parts, "samples.jsonl")]
    # Steps on the same answers have the same prompts, the next ones others.
    assert (asked[0] == asked[1]) == (settings.get("num_iterations") == 2)
    assert asked[0] != asked[2]


@pytest.mark.parametrize(
    ("method", "weight"), [("grpo", "beta"), ("rloo", "beta"), ("ppo", "kl_coef")]
)
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_the_reference_is_the_model_before_training(
    method, weight, adapter, write_online, tmp_path
):
    run(write_online(method, max_steps=6, **{weight: 0.1}), [f"adapter={adapter}"])
    distances = [row["kl"] for row in rows_of(tmp_path / "run") if "kl" in row]
    assert distances[0] == pytest.approx(0.0, abs=1e-5)
    assert abs(distances[-1]) > 1e-4


@pytest.mark.slow
def test_a_signal_saves_the_step_and_ends_with_75(write_online, tmp_path):
    path = write_online("grpo", max_steps=100_000, num_iterations=2)
    command = [
        *FRAMEWORK,
        "train",
        str(path),
        "checkpoint.every_steps=50000",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    end = time.monotonic() + 120
    while not metrics.is_file() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    done = read_rows(metrics)[-1]["step"]
    assert saved.name == f"step-{done:08d}"
    assert done % 2 == 0  # never between the two steps on the same answers


@pytest.mark.slow
@pytest.mark.parametrize(("method", "num_processes"), [("grpo", 1), ("grpo", 2), ("ppo", 2)])
def test_launched_processes_answer_and_learn_together(
    method, num_processes, write_online, launched, tmp_path
):
    launched(write_online(method, micro_batch_size=8), num_processes=num_processes)
    rows = rows_of(tmp_path / "run")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    num_prompts = {"grpo": 2, "ppo": 16}[method]  # of 16 answers over all processes
    assert len(read_rows(tmp_path / "run" / "samples.jsonl")[0]["ids"]) == num_prompts
    assert rows[0]["num_trained_tokens"] == pytest.approx(16 * rows[0]["completion_length"])


CONFLICTS = [
    ("grpo", {"global_batch_size": 12}, {}, "write global_batch_size: 16"),
    ("grpo", {}, {"packing": True}, "write packing: false"),
    ("grpo", {}, {"over_length": "truncate"}, "write over_length: drop"),
    ("ppo", {}, {"turns": "last"}, "data.turns: changes nothing about prompts without answers"),
    ("grpo", {"generation": "vllm"}, {}, "pip install 'framework[vllm]'"),
    ("grpo", {"vespo_k_pos": 1.0}, {}, "trainer.vespo_k_pos: has no effect without"),
    ("grpo", {"sapo_temperature_neg": 2.0}, {}, "or write loss_type: sapo"),
    ("grpo", {"loss_type": "cispo"}, {}, "write epsilon_high: 5.0"),
    ("rloo", {"reward_clip_range": [5, 1]}, {}, "is no smallest and largest reward"),
]


@pytest.mark.parametrize(("method", "trainer", "data", "message"), CONFLICTS)
def test_what_makes_no_sense_is_refused_with_the_line_to_write(
    method, trainer, data, message, write_online
):
    with pytest.raises(UserError) as caught:
        resolve(write_online(method, data=data, **trainer))
    assert message in str(caught.value)


def test_an_adapter_whose_parts_have_names_of_their_own_learns_from_answers(write_online, tmp_path):
    path = write_online("rloo", max_steps=1)
    run(path, ["adapter={type: lora_experts, num_new_experts: 2, r: 4}"])
    assert (tmp_path / "run" / "final" / "router.safetensors").is_file()


def test_a_row_without_the_column_that_a_reward_needs_is_said_before_training(write_online):
    rewards = [{"type": "exact_match", "column": "solution"}]
    with pytest.raises(UserError, match=r"prompts.jsonl:1: .*no column 'solution'"):
        run(write_online("grpo", rewards=rewards))


def test_a_prompt_that_is_too_long_is_refused(write_online):
    with pytest.raises(UserError, match=r"data.max_length is 8"):
        run(write_online("grpo", data={"max_length": 8}))


def test_answers_that_would_pass_the_models_positions_are_refused(write_online):
    with pytest.raises(UserError, match=r"write `data.max_length: 112`"):
        run(write_online("grpo", data={"max_length": 400}, max_new_tokens=400))


LENGTH = b"def reward(prompt, completion, columns):\n    return len(completion)\n"


@pytest.mark.parametrize("method", TRAINERS)
def test_a_function_scores_answers_while_more_are_drawn(
    method, write_online, tmp_path, monkeypatch
):
    """It gets four at a time, as they are drawn, and what it says of them is logged."""
    monkeypatch.setitem(Workbench.__init__.__kwdefaults__, "answers_at_once", 4)
    sent = []
    begin = PythonProcess.begin

    def begun(process, answers):
        sent.append(len(answers))
        begin(process, answers)

    monkeypatch.setattr(PythonProcess, "begin", begun)
    (tmp_path / "own.py").write_bytes(LENGTH)
    reward = {
        "type": "python",
        "path": str(tmp_path / "own.py"),
        "sha256": hashlib.sha256(LENGTH).hexdigest(),
    }
    held_out = {"eval": [{"source": "./prompts.jsonl", "format": "prompt_only", "rows": ":4"}]}
    run(write_online(method, data=held_out, rewards=[reward], max_steps=1))
    assert sent == [4] * 5  # of 16 that are learned from, and of 4 held-out ones
    shown = read_rows(tmp_path / "run" / "answers.jsonl")
    assert [row["rewards"]["python"] for row in shown] == [len(row["answer"]) for row in shown]
