"""Online trainers on a bandit: the first token must begin with one of half of the letters."""

from __future__ import annotations

import pytest
from conftest import read_rows, write_rows

from framework.train import run

LETTERS = "abcdefghijklm"
SETTINGS = {
    "grpo": {"max_steps": 60},
    "rloo": {"max_steps": 60, "beta": 0.0, "num_generations": 8},
    "ppo": {"max_steps": 56, "kl_coef": 0.0, "num_generations": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", SETTINGS)
def test_the_mean_reward_rises_from_chance_to_over_four_fifths(method, write_online, tmp_path):
    # The same letters for every prompt: what a prompt asks for is found by some seeds alone.
    batch = {"global_batch_size": 64, "micro_batch_size": 64}
    recipe = write_online(method, **batch, **SETTINGS[method])
    prompts = [{"prompt": f"prompt {number}", "answer": list(LETTERS)} for number in range(8)]
    write_rows(tmp_path / "prompts.jsonl", prompts)
    run(recipe)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    rewards = [row["reward"] for row in rows if "reward" in row]
    # Of the 384 tokens, an eighth begin with one of the letters; 64 answers a step.
    assert rewards[0] < 0.4
    assert sum(rewards[-5:]) / 5 > 0.8
