"""`framework profile` on real runs: what it finds, what it writes, and what it leaves alone."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import warm_start

from framework.core.world import World
from framework.distributed.peers import ALONE
from framework.planning.plan import make_plan
from framework.profiling.profile import Profile, profile
from framework.recipe.resolve import resolve_with_origins

LORA = {
    "model.dtype": "float32",
    "adapter": {"type": "lora", "r": 4},
    "data.packing": False,
    "trainer": {"type": "sft", "global_batch_size": 4, "micro_batch_size": 2},
}


def profiled(recipe: Path, folder: Path, num_steps: int = 2) -> Profile:
    """What the command does, in this process."""
    plan = make_plan(resolve_with_origins(recipe), World(fast_bfloat16=True))
    found = profile(plan, ALONE, nullcontext(), folder, num_steps)
    assert found is not None
    return found


def test_lines_add_up_to_the_step_and_the_trace_is_a_chrome_trace(write_recipe, tmp_path):
    recipe = write_recipe(**{**LORA, "trainer.global_batch_size": 16})
    found = profiled(recipe, tmp_path / "profile", num_steps=4)
    written = json.loads((tmp_path / "profile" / "profile.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(found.as_json()))
    shares = [one["ratio"] for one in written["parts"]]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    # The loop's own clock, which knows nothing of the lines; logging isn't in it.
    assert written["step_seconds"] == pytest.approx(written["engine_step_seconds"], rel=0.05)
    lines = {(one["phase"], one["part"]) for one in written["parts"]}
    parts = {"embedding", "attention", "MLP", "norms"}
    assert {("forward", part) for part in parts} <= lines
    assert {("data", ""), ("loss", ""), ("backward", "loss"), ("optimizer", "")} <= lines
    computing = {one["part"] or one["phase"] for one in written["parts"] if one["flops"]}
    # Where losses are computed from parts of the logits at a time, the head is in the loss.
    assert computing in ({"attention", "MLP", "head"}, {"attention", "MLP", "loss"})
    assert 0 < written["mfu"] < 1
    assert written["memory_bytes"]["weights"] == sum(
        4 * one for one in _sizes(found, "parameters, ")
    )
    assert written["save_seconds"] > 0
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text(encoding="utf-8"))
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"data", "forward attention", "forward MLP", "backward loss", "optimizer"} <= names
    assert any(name and name.startswith("aten::mm") for name in names)
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == [
        "profile.json",
        "trace.json",
    ]


def _sizes(found: Profile, text: str) -> list[int]:
    """Of the line that says how many parameters the model has."""
    return [
        int(fact.partition("model: ")[2].partition(" ")[0].replace(",", ""))
        for fact in found.facts
        if text in fact
    ]


def test_a_slow_source_of_data_is_the_largest_line_and_the_first_advice(write_recipe, tmp_path):
    # It looks at a text, so it is rendered for every row.
    slow = "{% if messages[0].content %}{% for number in range(30000) %}{% endfor %}{% endif %}"
    template = (
        slow + "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' "
        "+ message.content + '<|im_end|>\\n' }}{% endfor %}"
    )
    recipe = write_recipe(
        **LORA,
        tokenizer={"chat_template": template},
        **{"data.streaming": {"buffer_rows": 4}, "checkpoint.every_steps": 3},
    )
    found = profiled(recipe, tmp_path / "profile")
    first = next(iter(found.findings.rows()))
    assert first["phase"] == "data"
    assert found.advice[0].rule == "data"
    assert "data.streaming: null" in found.advice[0].text


def test_checkpointing_that_memory_does_not_need_is_advised_against(write_recipe, tmp_path):
    recipe = write_recipe(**{**LORA, "model.gradient_checkpointing": True})
    found = profiled(recipe, tmp_path / "profile")
    again = [one for one in found.findings.slices if one.place.part == "computed again"]
    assert len(again) == 1 and again[0].operations > 0
    assert "checkpointing" in [one.rule for one in found.advice]
    assert found.findings.operations == pytest.approx(
        sum(one.operations for one in found.findings.slices) - again[0].operations
    )


@pytest.mark.usefixtures("warm")
def test_the_command_leaves_the_run_alone_and_refuses_foreign_folders(write_recipe, tmp_path):
    recipe = write_recipe(**{**LORA, "trainer.max_steps": 1})
    done = warm_start.framework("profile", recipe, "--steps", "1")
    assert done.returncode == 0, done.stderr
    for wanted in ("time of a step", "forward attention", "MFU", "what would help"):
        assert wanted in done.stdout
    assert not (tmp_path / "run").exists()
    assert {path.name for path in (tmp_path / "run-profile").iterdir()} == {
        "profile.json",
        "trace.json",
    }
    trained = warm_start.framework("train", recipe)
    assert trained.returncode == 0, trained.stderr
    assert "going on" not in trained.stderr
    for folder, why in ((tmp_path / "run" / "checkpoints" / "x", "inside"), (tmp_path, "files")):
        refused = warm_start.framework("profile", recipe, "-o", folder)
        assert (refused.returncode, why in refused.stderr) == (3, True), refused.stderr
    again = warm_start.framework("profile", recipe, "--steps", "1", "--json")
    assert json.loads(again.stdout)["num_steps"] == 1, again.stderr


@pytest.mark.usefixtures("warm")
def test_waiting_for_another_process_is_communication_and_rank_0_alone_tells(
    write_recipe, tmp_path
):
    recipe = write_recipe(**LORA)
    group = warm_start.run_group(["profile", str(recipe), "--steps", "2"], 2)
    assert group.codes == [0, 0], group.output
    assert group.output.count("what would help") == 1
    assert "rank 0 of 2" in group.output
    written = json.loads((tmp_path / "run-profile" / "profile.json").read_text(encoding="utf-8"))
    lines = {(one["phase"], one["part"]): one["seconds"] for one in written["parts"]}
    assert lines["communication", ""] > 0
    # What the loop does after it has looked at its clock, such as logging, is in the last line.
    whole = sum(lines.values())
    assert whole - lines["rest", ""] < written["engine_step_seconds"] < whole
    assert written["num_processes"] == 2
