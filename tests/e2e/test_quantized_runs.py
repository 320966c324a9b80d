"""Runs over quantised weights: resumed, saved for others, merged with proof, talked to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import read_rows
from peft import PeftModel
from safetensors.torch import load_file

from framework.core.problems import Refused
from framework.runs.merge import merge, prove_merged, trained_logits
from framework.runs.trained import FinishedRun
from framework.train import run

QUANTIZERS = {
    "nf4": "bitsandbytes_4bit",
    "int8": "bitsandbytes_8bit",
    "torchao": "torchao",
    "qat": {"type": "qat", "group_size": 16},
}
NUM_STEPS = 4
PLAIN_PEFT = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

base, adapter = sys.argv[1:]
quantised = AutoModelForCausalLM.from_pretrained(
    base,
    dtype=torch.float32,
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    ),
)
# In evaluation mode bitsandbytes computes in bfloat16 on CPUs that have it.
model = PeftModel.from_pretrained(quantised, adapter).train()
with torch.no_grad():
    print(json.dumps(model(input_ids=torch.arange(2, 40)[None]).logits[0, -1].tolist()))
"""


def written(write_recipe, name, **sections):
    return write_recipe(
        **{
            "model.quantization": QUANTIZERS[name],
            "adapter": {"type": "lora", "r": 4, "lora_dropout": 0.1},
            "trainer": {"max_steps": NUM_STEPS, "learning_rate": 1e-2},
            "checkpoint": {"every_steps": 2, "keep_last": 9},
            **sections,
        }
    )


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(name, write_recipe, tmp_path):
    recipe, directory = written(write_recipe, name), tmp_path / "run"
    run(recipe)
    final = directory / "final" / "adapter_model.safetensors"
    whole, losses = load_file(final), read_rows(directory / "metrics.jsonl")
    shutil.rmtree(directory / "final")
    shutil.rmtree(directory / "checkpoints" / f"step-{NUM_STEPS:08d}")
    run(recipe)
    resumed = load_file(final)
    assert len(whole) == len(resumed) == 28
    assert all(whole[key].equal(resumed[key]) for key in whole)
    again = read_rows(directory / "metrics.jsonl")
    assert [row["loss"] for row in losses] == [row["loss"] for row in again]


@pytest.mark.parametrize("name", QUANTIZERS)
def test_an_adapter_is_merged_into_what_it_was_trained_over(name, write_recipe, tmp_path):
    # In bfloat16, so that the numbers that were trained over are not float32's.
    run(written(write_recipe, name, **{"model.dtype": "bfloat16"}))
    finished = FinishedRun.open(tmp_path / "run")
    proof = merge(finished, tmp_path / "merged", "float32")
    assert proof.quantization in json.dumps(QUANTIZERS[name])
    assert proof.largest_difference <= 1e-5 < proof.largest_change
    assert proof.difference_on_whole_weights is not None
    assert 1e-4 < proof.difference_on_whole_weights < 1
    config = json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config


@pytest.mark.parametrize("name", ["nf4", "int8", "torchao"])
def test_a_merge_into_the_whole_weights_is_refused_by_the_proof(name, write_recipe, tmp_path):
    run(written(write_recipe, name))
    finished = FinishedRun.open(tmp_path / "run")
    trained, over_what_was_trained = trained_logits(finished)
    over_whole_weights = finished.adapted(finished.whole_model(torch.float32))
    for at, (model, is_right) in enumerate(
        [(over_what_was_trained, True), (over_whole_weights, False)]
    ):
        assert isinstance(model, PeftModel)
        folder = tmp_path / f"merged-{at}"
        model.merge_and_unload().save_pretrained(folder)
        if is_right:
            prove_merged(folder, trained, "float32")
            continue
        with pytest.raises(Refused, match="the merge is not the trained model"):
            prove_merged(folder, trained, "float32")


def test_full_training_for_rounding_ends_in_a_plain_model(write_recipe, tmp_path):
    from transformers import AutoModelForCausalLM

    run(written(write_recipe, "qat", adapter="full"))
    finished = FinishedRun.open(tmp_path / "run")
    plain = AutoModelForCausalLM.from_pretrained(finished.final, dtype=torch.float32)
    tokens = torch.arange(2, 40)[None]
    with torch.no_grad():
        rounded = finished.trained_model(torch.float32)(input_ids=tokens).logits
        assert not torch.allclose(plain(input_ids=tokens).logits, rounded, atol=1e-4)
        quantizer = finished.quantizer
        assert quantizer is not None
        quantizer.prepare(plain)
        assert torch.equal(plain(input_ids=tokens).logits, rounded)
    proof = merge(finished, tmp_path / "merged", "float32")
    assert proof.largest_difference == 0 < proof.largest_change and proof.quantization is None


@pytest.mark.slow
def test_plain_peft_over_a_base_in_4_bits_is_the_trained_model(
    write_recipe, tiny_model_dir, tmp_path
):
    """In a process in which this package can't be imported."""
    from architectures import build
    from transformers import AutoTokenizer

    # Rows of whole blocks: others bitsandbytes 0.50 dequantises wrongly on a CPU by itself.
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    base = tmp_path / "base"
    settings = {"intermediate_size": 128, "vocab_size": len(tokenizer)}
    build("LlamaConfig", settings).save_pretrained(base)
    tokenizer.save_pretrained(base)
    model = {"source": str(base), "quantization": "bitsandbytes_4bit", "dtype": "float32"}
    run(written(write_recipe, "nf4", model=model, **{"adapter.lora_dropout": 0.0}))
    finished = FinishedRun.open(tmp_path / "run")
    with torch.no_grad():
        model = finished.trained_model(torch.float32)
        wanted = model(input_ids=torch.arange(2, 40)[None]).logits[0, -1]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = subprocess.run(
        [sys.executable, "-P", "-c", PLAIN_PEFT, str(base), str(finished.final)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert said.returncode == 0, said.stderr
    found = torch.tensor(json.loads(said.stdout.splitlines()[-1]))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_evaluators_and_generations_ask_the_quantised_model(write_recipe, tmp_path):
    recipe = written(
        write_recipe,
        "nf4",
        **{
            "data.test": [{"source": "./eval.jsonl"}],
            "evaluation": {
                "every_steps": 2,
                "num_generations": 2,
                "max_new_tokens": 4,
                "evaluators": [{"type": "exact_match", "num_rows": 2, "max_new_tokens": 4}],
            },
        },
    )
    result = run(recipe)
    assert len(result.before) == len(result.after) == 1
    assert len(read_rows(tmp_path / "run" / "generations.jsonl")) == 4
    plan = json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))
    assert plan["quantizer"] == "bitsandbytes_4bit"
    # 2 layers: q, o 32 x 32; k, v 16 x 32; three of 32 x 64.
    assert plan["num_quantized_parameters"] == 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nf4", "torchao"])
def test_two_processes_train_over_their_own_quantised_weights_what_one_does(
    name, write_recipe, launched, tmp_path
):
    model = {"quantization": QUANTIZERS[name], "dtype": "float32"}
    recipe = written(write_recipe, name, model=model, **{"adapter.lora_dropout": 0.0})
    losses = []
    for num_processes in (1, 2):
        output = tmp_path / f"of-{num_processes}"
        launched(recipe, f"output.dir={output}", num_processes=num_processes)
        losses.append([row["loss"] for row in read_rows(output / "metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
