"""One chat with several adapters answers as each of them alone does."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from warm_start import FRAMEWORK

from framework.core.problems import UserError
from framework.runs.switched import load_switched
from framework.runs.trained import FinishedRun
from framework.train import run

pytestmark = pytest.mark.usefixtures("warm")

QUESTION = "Question 3: what?"
TOKENS = torch.arange(5, 45)[None]


def chat(*arguments, stdin):
    said = subprocess.run(
        [*FRAMEWORK, "chat", *map(str, arguments), "--max-new-tokens", "8"],
        capture_output=True,
        text=True,
        check=False,
        input=stdin,
    )
    assert said.returncode == 0, said.stderr
    return said.stdout.splitlines()


@pytest.fixture
def trained(write_recipe, tmp_path):
    def train(name, **overrides):
        recipe = write_recipe(
            **{
                "adapter": {"type": "lora", "r": 4},
                "trainer": {"max_steps": 3, "learning_rate": 1e-2},
                **overrides,
            }
        )
        run(recipe, [f"output.dir={tmp_path / name}", f"trainer.seed={len(name)}"])
        path = tmp_path / name / "final" / "adapter_model.safetensors"
        # So large that the answers of two adapters and of the base are three.
        weights = {key: 8 * value for key, value in load_file(path).items()}
        save_file(weights, path, metadata={"format": "pt"})
        return tmp_path / name

    return train


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def test_a_session_switches_between_adapters_and_the_base(trained, tmp_path):
    # `lora` is also a part of every parameter's name in peft.
    one, other = trained("lora"), trained("second")
    alone = [chat(one, stdin=f"{QUESTION}\n"), chat(other, stdin=f"{QUESTION}\n")]
    alone.append(chat(one, "--base", stdin=f"{QUESTION}\n"))
    assert len({tuple(answer) for answer in alone}) == 3
    lines = chat(
        "--adapter",
        one / "final",
        "--adapter",
        other,
        stdin=f"{QUESTION}\n/adapter second\n{QUESTION}\n/adapter none\n{QUESTION}\n/adapter thrd\n"
        f"/adapter lora\n{QUESTION}\n/adapter\n",
    )
    state = "adapter: {} (of lora, second, none)"
    assert lines == [
        state.format("lora"),
        *alone[0],
        state.format("second"),
        *alone[1],
        state.format("none"),
        *alone[2],
        "no adapter is called 'thrd'; allowed: lora, none, second",
        state.format("lora"),
        *alone[0],
        state.format("lora"),
    ]


def test_each_choice_is_that_adapter_on_its_base_to_the_last_bit(trained, tmp_path):
    one, other = (
        FinishedRun.open(trained("one")),
        trained("second", adapter={"type": "lora", "r": 2}),
    )
    bare = tmp_path / "bare"
    shutil.copytree(other / "final", bare)
    switched = load_switched(one, [one.final, bare, other / "final"], torch.float32, "cpu")
    assert switched.names == ("one", "bare", "second")
    wanted = {
        "one": logits(one.trained_model(torch.float32)),
        "second": logits(FinishedRun.open(other).trained_model(torch.float32)),
        "none": logits(one.base_model(torch.float32)),
    }
    wanted["bare"] = wanted["second"]
    for name in ("second", "none", "one", "none", "bare"):
        switched.switch(name)
        with switched.answering() as model:
            assert torch.equal(logits(model), wanted[name]), name


def test_what_stands_on_no_common_base_is_refused_all_at_once(trained, write_recipe, tmp_path):
    one = FinishedRun.open(trained("one"))
    other_model = tmp_path / "other model"
    shutil.copytree(one.recipe.model.source.fetch(), other_model)
    weights = load_file(other_model / "model.safetensors")
    save_file(
        {k: v * 2 for k, v in weights.items()}, other_model / "model.safetensors", {"format": "pt"}
    )
    other = trained("second", model={"source": str(other_model)})
    with pytest.raises(UserError) as caught:
        load_switched(one, [one.final, other / "final", tmp_path / "no"], torch.float32, "cpu")
    first, second = caught.value.problems
    assert "was trained over" in first.what and "other model" in first.what
    assert "does not exist" in second.what


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_says_in_which_dtype_it_computed(trained, dtype):
    finished = FinishedRun.open(trained("one", model={"dtype": dtype}))
    assert finished.computed_in == getattr(torch, dtype)
    assert logits(finished.trained_model(finished.computed_in)).dtype == finished.computed_in
