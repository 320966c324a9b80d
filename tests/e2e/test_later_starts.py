"""A start that goes on with a run trains that run, or is refused; what it may change is said."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from warm_start import framework

pytestmark = pytest.mark.usefixtures("warm")

train = partial(framework, "train")


def interrupted(write_recipe: Callable[..., Path], **settings: Any) -> Path:
    """The recipe of a run that goes on after step 2 of 4 when it is started again."""
    recipe = write_recipe(
        **{"model.dtype": "float32", "trainer.max_steps": 4, "checkpoint.every_steps": 2},
        **settings,
    )
    ended = train(recipe)
    assert ended.returncode == 0, ended.stderr
    cut(recipe.parent / "run")
    return recipe


def cut(run: Path) -> None:
    """The run goes on after step 2 of 4."""
    (run / "checkpoints" / "step-00000004" / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.quantization", "bitsandbytes_4bit"),
        ("model.rope_scaling", "{type: linear, factor: 4}"),
        ("trainer.parameter_groups", "[{pattern: '.', learning_rate: 0.5}]"),
        ("trainer.ema", "{}"),
    ],
)
def test_a_section_more_is_another_run_and_the_run_goes_on_without_it(
    write_recipe, tmp_path, key, value
):
    recipe = interrupted(write_recipe, adapter={"type": "lora", "r": 4})
    run = tmp_path / "run"
    before = {name: (run / name).read_bytes() for name in ("settings.json", "resolved.yaml")}
    other = train(recipe, f"{key}={value}")
    assert other.returncode == 3, other.stderr
    assert f"{key}: is " in other.stderr and "Traceback" not in other.stderr
    assert before == {name: (run / name).read_bytes() for name in before}
    again = train(recipe)
    assert again.returncode == 0, again.stderr
    assert "going on after step 2" in again.stderr
