"""A merged model is the trained one, or it isn't written; and both can be talked to."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
import warm_start
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.usefixtures("warm")

TOLERANCE = 1e-4  # logits, float32: W x + B A x summed in another order


framework = partial(warm_start.framework, input="")


@pytest.fixture
def trained(write_recipe, tmp_path):
    recipe = write_recipe(
        adapter={"type": "lora", "r": 4}, trainer={"max_steps": 5, "learning_rate": 1e-2}
    )
    ended = framework("train", recipe)
    assert ended.returncode == 0, ended.stderr
    return tmp_path / "run"


def change_adapter(run, change):
    path = run / "final" / "adapter_model.safetensors"
    weights = {name: change(name, weight) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def test_merged_logits_are_those_of_the_adapter_on_its_base(trained, tiny_model_dir, tmp_path):
    from peft import PeftModel

    said = framework("merge", trained, "--output", tmp_path / "merged", "--json")
    assert said.returncode == 0, said.stderr
    proof = json.loads(said.stdout)
    assert proof["largest_difference"] <= TOLERANCE < proof["largest_change"]
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    adapted = PeftModel.from_pretrained(base, trained / "final")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "merged")("the capital", return_tensors="pt")
    with torch.no_grad():
        difference = merged(**tokens).logits - adapted(**tokens).logits
    assert difference.abs().max() <= TOLERANCE


def test_an_adapter_that_changes_nothing_is_refused(trained, tmp_path):
    change_adapter(trained, lambda name, weight: weight * 0)
    said = framework("merge", trained, "--output", tmp_path / "merged")
    assert said.returncode == 3
    assert "the merge would equal the base model" in said.stderr
    assert not (tmp_path / "merged").exists()
    assert not list(tmp_path.glob(".merged*"))


def test_a_change_that_rounding_swallows_is_refused_in_16_bits_only(trained, tmp_path):
    change_adapter(trained, lambda name, weight: weight * 0.1)
    half = framework("merge", trained, "--output", tmp_path / "half", "--dtype", "bfloat16")
    assert half.returncode == 3
    assert "write --dtype float32" in half.stderr
    assert not (tmp_path / "half").exists()
    whole = framework("merge", trained, "--output", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr


def test_what_cannot_be_merged_says_why(trained, write_recipe, tmp_path):
    (tmp_path / "there").mkdir()
    assert "exists" in framework("merge", trained, "--output", tmp_path / "there").stderr
    not_a_run = framework("merge", tmp_path, "--output", tmp_path / "merged")
    assert not_a_run.returncode == 2
    assert "is not a run directory" in not_a_run.stderr


@pytest.fixture
def fully_trained(write_recipe, tmp_path):
    recipe = write_recipe(adapter="full", trainer={"max_steps": 5, "learning_rate": 1e-2})
    ended = framework("train", recipe)
    assert ended.returncode == 0, ended.stderr
    return tmp_path / "run"


def change_model(run, change):
    path = run / "final" / "model.safetensors"
    weights = {name: change(name, weight) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def test_a_whole_model_is_written_in_the_dtype_that_it_is_served_in(fully_trained, tmp_path):
    final = fully_trained / "final"
    said = framework("merge", fully_trained, "--output", tmp_path / "half", "--dtype", "bfloat16")
    assert said.returncode == 0, said.stderr
    assert "logits differ from final/ by at most" in said.stdout
    trained, half = (load_file(one / "model.safetensors") for one in (final, tmp_path / "half"))
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert trained.keys() == half.keys() and len(half) > 0
    for name, weight in trained.items():
        assert torch.equal(half[name], weight.to(torch.bfloat16)), name
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    for name in ("generation_config.json", "README.md"):
        assert (tmp_path / "half" / name).read_bytes() == (final / name).read_bytes()
    texts = [
        AutoTokenizer.from_pretrained(one)("the capital") for one in (final, tmp_path / "half")
    ]
    assert texts[0]["input_ids"] == texts[1]["input_ids"]


def test_a_whole_model_in_float32_is_equal(fully_trained, tmp_path):
    said = framework("merge", fully_trained, "--output", tmp_path / "whole", "--json")
    assert said.returncode == 0, said.stderr
    proof = json.loads(said.stdout)
    assert proof["largest_difference"] == 0.0 < proof["largest_change"]


def test_a_whole_model_whose_training_rounding_swallows_is_refused_in_16_bits(
    fully_trained, tiny_model_dir, tmp_path
):
    base = load_file(tiny_model_dir / "model.safetensors")
    change_model(fully_trained, lambda name, one: base[name] + (one - base[name]) * 1e-2)
    half = framework("merge", fully_trained, "--output", tmp_path / "half", "--dtype", "bfloat16")
    assert half.returncode == 3
    assert "differs from final/ by more than 10% of what training changes" in half.stderr
    assert "write --dtype float32" in half.stderr
    assert not (tmp_path / "half").exists()


def test_a_whole_model_that_learned_nothing_is_refused(fully_trained, tiny_model_dir, tmp_path):
    base = load_file(tiny_model_dir / "model.safetensors")
    change_model(fully_trained, lambda name, weight: base[name])
    said = framework("merge", fully_trained, "--output", tmp_path / "merged")
    assert said.returncode == 3
    assert "would equal the base model: training moves no logit" in said.stderr
    assert not (tmp_path / "merged").exists()


def test_base_and_tuned_model_answer_in_the_terminal(trained):
    answers = []
    for flags in ([], ["--base"]):
        said = framework(
            "chat", trained, "--max-new-tokens", "8", *flags, input="Question 3: what?\nAgain\n\n"
        )
        assert said.returncode == 0, said.stderr
        answers.append(said.stdout)
    assert answers[0].strip() and answers[0] != answers[1]
