"""Processes that compute slices of the same rows train, save and go on as one process does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import read_rows, write_rows
from runs_in_processes import (
    STEPS,
    assert_same_run,
    launch_together,
    stopped_halfway,
    write_run,
)
from warm_start import run_group

from framework.train import run

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "rows_together.py"
TOGETHER = "strategy={type: fsdp, sequence_parallel_size: 2}"
FEW = ("trainer.max_steps=3", "evaluation.every_steps=null", "evaluation.num_generations=0")
LORA = {"type": "lora", "r": 4, "init_lora_weights": "gaussian"}
ONE_DOCUMENT = {"micro_batch_size": 1}
PAIRS: Mapping[str, Any] = {
    "train": [{"source": "./pairs.jsonl", "format": "preference"}],
    "eval": [{"source": "./pairs.jsonl", "format": "preference", "rows": ":3"}],
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    # Documents of a pack begin alike; every row of the other is one document, cut in its middle.
    "packed": {"adapter": "full", "data": {"packing": True}, "trainer": {"global_batch_size": 4}},
    "single": {"adapter": LORA, "trainer": ONE_DOCUMENT},
    "apart": {
        "adapter": "full",
        "data": {"packing": True, "share_prefixes": False},
        "model": {"gradient_checkpointing": True},
        "trainer": {"global_batch_size": 4, "label_smoothing": 0.1, "z_loss": 1e-3},
    },
    "pairs": {"adapter": LORA, "data": PAIRS, "trainer": {"type": "dpo"}},
    "judge": {"adapter": LORA, "data": PAIRS, "trainer": {"type": "reward"}},
}
LONG = ("packed", "single")
"""Those of 20 steps."""


def write(folder: Path, model: Path, name: str) -> Path:
    """A recipe at a rate that stays the same."""
    sections = RECIPES[name]
    trainer = {"lr_scheduler_type": "constant", **sections.get("trainer", {})}
    return write_run(folder, model, name, {**sections, "trainer": trainer})


@pytest.fixture(scope="module")
def folder(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory, warm: None) -> Path:
    """The runs of one process, and those of two that compute together."""
    folder = tmp_path_factory.mktemp("rows")
    pairs = [
        {"prompt": f"Question {number}?", "chosen": f"Answer {number}.", "rejected": "No, indeed."}
        for number in range(8)
    ]
    write_rows(folder / "pairs.jsonl", pairs)
    runs: list[list[str]] = []
    for name in RECIPES:
        recipe = write(folder, tiny_model_dir, name)
        few = [] if name in LONG else FEW
        run(recipe, [f"output.dir={folder / f'{name}-1'}", *few])
        runs.append([str(recipe), TOGETHER, f"output.dir={folder / f'{name}-2'}", *few])
    copy = stopped_halfway(folder, "single-1", "single-goes-on-2")
    runs.append([str(folder / "single.yaml"), TOGETHER, f"output.dir={copy}"])
    launch_together(folder, runs)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_that_compute_rows_together_train_as_one(folder, name):
    assert_same_run(folder / f"{name}-2", folder / f"{name}-1", STEPS if name in LONG else 3)


def test_they_give_the_same_answers(folder):
    ours, theirs = (read_rows(folder / f"packed-{n}" / "generations.jsonl") for n in (2, 1))
    assert len(ours) == 2 * 3 and ours == theirs


def test_rows_hold_what_the_cases_are_about(folder):
    (pack, *_) = (json.loads(line) for line in (folder / "packed-2" / "metrics.jsonl").open())
    assert pack["shared_tokens"] > 0.1
    text = (folder / "packed-2" / "log.txt").read_text(encoding="utf-8")
    assert "rows: computed together by 2, a slice of each by every one" in text
    assert "weights, gradients and optimizer state: shared out by 2" in text


def test_what_one_process_saved_two_go_on_from_together_and_back(folder):
    assert "going on after step 10" in (folder / "single-goes-on-2" / "log.txt").read_text()
    assert_same_run(folder / "single-goes-on-2", folder / "single-1")
    copy = stopped_halfway(folder, "single-2", "single-goes-on-1")
    run(folder / "single.yaml", [f"output.dir={copy}"])
    assert_same_run(copy, folder / "single-1")


def test_rows_of_many_architectures_are_computed_together(warm):
    group = run_group(["--run", str(SCRIPT)], 2)
    assert group.codes == [0, 0], group.output
    assert group.output.count("the same: ") == 7, group.output
    refused = [line for line in group.output.splitlines() if line.startswith("refused: ")]
    reasons = {line.split()[1]: line for line in refused}
    assert "which see more than a slice of a row" in reasons["Lfm2Config"]
    assert "its layers have convolutions over tokens" in reasons["MambaConfig"]
    assert "0 of its 2 layers have attention that is computed here" in reasons["BloomConfig"]
    assert "otherwise than all of it: logits differ" in reasons["Neighbours"]
    assert "2 processes can't share 1 attention heads" in reasons["GPTBigCodeConfig"]
    assert "chunked_attention" in reasons["Llama4TextConfig"]


@pytest.mark.long
def test_groups_of_two_share_out_data_and_weights_with_each_other(folder):
    """Four processes: weights are shared out over all, data over two groups."""
    ways = {
        "shared": "{type: fsdp, sequence_parallel_size: 2}",
        "copies": "{type: fsdp, sequence_parallel_size: 2, num_replicas: 2}",
    }
    runs = [
        [str(folder / f"{name}.yaml"), f"strategy={way}", f"output.dir={folder / f'{name}-{key}'}"]
        for name in LONG
        for key, way in ways.items()
    ]
    launch_together(folder, runs, 4)
    for name in LONG:
        for key in ways:
            assert_same_run(folder / f"{name}-{key}", folder / f"{name}-1")
    # What four saved, two go on from in another way.
    copy = stopped_halfway(folder, "single-shared", "shared-goes-on-2")
    launch_together(folder, [[str(folder / "single.yaml"), "strategy=fsdp", f"output.dir={copy}"]])
    assert_same_run(copy, folder / "single-1")
