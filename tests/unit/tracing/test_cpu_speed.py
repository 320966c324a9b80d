"""How fast this machine's CPU is: measured once, kept, and what it makes of a plan's time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from framework.core.world import World
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.tracing import trace
from framework.tracing.cpu_speed import cpu_speed
from framework.tracing.lengths import lengths_of
from framework.tracing.peak import Traces


def test_the_speed_of_one_thread_is_measured_once(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cpu_speed("float32", 1, may_measure=False) is None
    found = cpu_speed("float32", 1)
    assert found is not None
    assert found.operations_per_second > 1e9
    assert 0 < found.call_seconds < 1e-3
    assert cpu_speed("float32", 1, may_measure=False) == found
    assert cpu_speed("float32", 2, may_measure=False) is None
    assert cpu_speed("bfloat16", 1, may_measure=False) is None
    (file,) = (tmp_path / "framework" / "cpu-speed").iterdir()
    file.write_text("{}", encoding="utf-8")
    assert cpu_speed("float32", 1, may_measure=False) is None


@pytest.mark.parametrize("again", [False, True])
def test_calls_of_layers_that_repeat_are_those_of_the_whole_model(
    write_recipe, tiny_model_dir, tmp_path, monkeypatch, again
):
    folder = tmp_path / "five"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = 5
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    recipe = write_recipe(model={"source": str(folder), "gradient_checkpointing": again})
    plan = make_plan(resolve_with_origins(recipe), World(device="cpu"))
    lengths = lengths_of(plan, folder)
    repeated = Traces(folder).heaviest(plan, lengths)
    monkeypatch.setattr(trace, "LONGEST_PERIOD", 0)
    whole = Traces(folder).heaviest(plan, lengths)
    assert (repeated.memory.num_blocks, whole.memory.num_blocks) == (5, 2)
    assert repeated.work == whole.work
    assert whole.work.pass_calls.products > 5 * (21 if not again else 28)
    assert whole.work.step_calls.others > 0
