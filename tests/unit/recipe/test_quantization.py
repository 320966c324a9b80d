"""How a model's weights are held: what a recipe may ask, and what config.json already says."""

from __future__ import annotations

import itertools
import shutil

import pytest
import torch
from architectures import document
from quantized_checkpoints import fp8_checkpoint, says
from transformers import LlamaForCausalLM

from framework.core.problems import UserError
from framework.models.isolation import document_logits
from framework.models.load import load_weights, usable_quantizer
from framework.models.quantized import plain_copy
from framework.quantizers.bitsandbytes_4bit import Bitsandbytes4bit
from framework.quantizers.bitsandbytes_8bit import Bitsandbytes8bit
from framework.quantizers.fp8 import FP8
from framework.quantizers.torchao import Torchao
from framework.recipe.quantization import quantizer_of
from framework.recipe.resolve import resolve

HELD = "model.layers.0.mlp.down_proj"


def problems(path):
    with pytest.raises(UserError) as caught:
        resolve(path)
    return caught.value.problems


def loaded(folder, quantizer=None, dtype="float32"):
    return load_weights(
        folder,
        dtype=dtype,
        attention="segmented_sdpa",
        quantizer=quantizer,
        compute_dtype=dtype,
    )


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


@pytest.mark.parametrize("quantizer", ["bitsandbytes_4bit", "bitsandbytes_8bit", "torchao"])
def test_weights_that_are_frozen_in_few_bits_cannot_be_trained(quantizer, write_recipe):
    (problem,) = problems(write_recipe(model={"quantization": quantizer}))
    assert problem.key == "adapter"
    assert f"(`{quantizer}`) can't be trained" in problem.what
    assert problem.hint.startswith("write `adapter: lora`")
    assert resolve(write_recipe(model={"quantization": quantizer}, adapter="lora"))


def test_weights_that_are_rounded_in_each_pass_can(write_recipe):
    assert resolve(write_recipe(model={"quantization": "qat"}))
    assert resolve(write_recipe(model={"quantization": "qat"}, adapter="lora"))


@pytest.mark.parametrize("quantizer", ["bitsandbytes_8bit", "torchao"])
def test_weights_in_one_piece_are_not_shared_out(quantizer, write_recipe):
    recipe = write_recipe(model={"quantization": quantizer}, adapter="lora", strategy="fsdp")
    (problem,) = problems(recipe)
    assert problem.key == "strategy"
    assert f"`quantization: {quantizer}` can't be split" in problem.what
    for fitting in ("strategy=ddp", "model.quantization=bitsandbytes_4bit"):
        resolve(recipe, [fitting])


def test_an_adapter_that_reads_quantised_weights_itself_needs_them_whole(write_recipe):
    recipe = write_recipe(
        model={"quantization": "bitsandbytes_4bit"}, adapter="shira", strategy="fsdp"
    )
    (problem,) = problems(recipe)
    assert problem.key == "adapter"
    assert "only where a process holds weights whole, and `fsdp` shares them out" in problem.what
    for fitting in ("strategy=ddp", "adapter=lora", "model.quantization=null"):
        resolve(recipe, [fitting])


def test_an_adapter_that_bypasses_quantised_layers_is_refused(write_recipe):
    (problem,) = problems(
        write_recipe(model={"quantization": "bitsandbytes_4bit"}, adapter={"type": "hra"})
    )
    assert problem.key == "adapter"
    assert "`hra` does not work over `quantization: bitsandbytes_4bit`" in problem.what


def test_integers_without_a_gradient_are_refused_with_those_that_have_one(write_recipe):
    (problem,) = problems(
        write_recipe(model={"quantization": {"type": "torchao", "weights": "int4"}}, adapter="lora")
    )
    assert problem.key == "model.quantization.weights"
    assert "have no gradient" in problem.what
    assert "bitsandbytes_4bit" in problem.hint


def test_hqq_is_refused_with_the_reason(write_recipe):
    (problem,) = problems(write_recipe(model={"quantization": "hqq"}, adapter="lora"))
    assert "transformers 5 does not load its weights yet" in problem.what
    assert problem.hint == "write `quantization: bitsandbytes_4bit`"


@pytest.mark.parametrize(
    ("quantizer", "kind"),
    [
        (Bitsandbytes4bit(), Bitsandbytes4bit),
        (Bitsandbytes8bit(), Bitsandbytes8bit),
        (Torchao(), Torchao),
    ],
    ids=["nf4", "int8", "torchao"],
)
def test_a_checkpoint_that_is_quantised_already_is_trained_over_as_it_is(
    quantizer, kind, write_recipe, tiny_model_dir, tmp_path
):
    saved = shutil.copytree(tiny_model_dir, tmp_path / "quantised")
    first = loaded(tiny_model_dir, quantizer)
    first.save_pretrained(saved)
    recipe = resolve(write_recipe(model={"source": str(saved)}, adapter="lora"))
    found = usable_quantizer(recipe, saved)
    assert type(found) is kind
    again = loaded(saved, found)
    wanted, weights = plain_copy(first, quantizer), plain_copy(again, found)
    for name, weight in wanted.state_dict().items():
        assert torch.equal(weight, weights.state_dict()[name]), name
    (problem,) = problems(write_recipe(model={"source": str(saved)}))
    assert problem.key == "adapter"
    other = "torchao" if kind is not Torchao else "bitsandbytes_4bit"
    (problem,) = problems(
        write_recipe(model={"source": str(saved), "quantization": other}, adapter="lora")
    )
    assert problem.key == "model.quantization"
    assert "the model is quantised already" in problem.what


def test_an_fp8_checkpoint_is_made_whole_while_it_is_loaded(write_recipe, folder):
    wanted = fp8_checkpoint(folder)
    assert len(wanted) == 14
    recipe = resolve(write_recipe(model={"source": str(folder)}, adapter="lora"))
    found = usable_quantizer(recipe, folder)
    assert found == FP8()
    weights = loaded(folder, found).state_dict()
    # transformers multiplies in another order, or in bfloat16 where that is the weights' dtype.
    assert all(torch.allclose(weights[name], wanted[name], rtol=1e-6) for name in wanted)
    (problem,) = problems(write_recipe(model={"source": str(folder)}))
    assert "(`fp8`) can't be trained" in problem.what


@pytest.mark.parametrize("quantizer", [FP8(), Bitsandbytes4bit(), Bitsandbytes8bit(), Torchao()])
def test_what_is_not_quantised_has_the_recipes_dtype_and_not_the_files(
    quantizer, folder, tiny_model_dir
):
    for written, wanted in itertools.permutations(("float32", "bfloat16")):
        if isinstance(quantizer, FP8):
            loaded(tiny_model_dir, dtype=written).save_pretrained(folder)
            fp8_checkpoint(folder)
        else:
            loaded(tiny_model_dir, quantizer, written).save_pretrained(folder)
        model = loaded(folder, quantizer, wanted)
        weights = {
            str(parameter.dtype).removeprefix("torch.")
            for name, parameter in model.named_parameters()
            if not quantizer.holds(model.get_submodule(name.rpartition(".")[0]))
        }
        assert weights == {wanted}
        assert document_logits(model, [document(9, seed=1)]).isfinite().all()


def test_what_an_architecture_demands_in_float32_stays_so(folder, monkeypatch):
    fp8_checkpoint(folder)
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", {"input_layernorm"})
    model = loaded(folder, FP8(), "bfloat16")
    found = [name for name, one in model.named_parameters() if one.dtype == torch.float32]
    assert found == [f"model.layers.{number}.input_layernorm.weight" for number in range(2)]


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_checkpoint_whose_library_is_missing_is_refused_with_the_line_that_installs_it(
    method, write_recipe, folder
):
    says(folder, quant_method=method, bits=4)
    (problem,) = problems(write_recipe(model={"source": str(folder)}, adapter="lora"))
    assert problem.key == "model.quantization"
    assert "needs the package 'gptqmodel'" in problem.what
    assert problem.hint.startswith("pip install gptqmodel")


def test_a_checkpoint_of_another_method_is_refused_with_what_to_train_instead(write_recipe, folder):
    says(folder, quant_method="mxfp4")
    (problem,) = problems(write_recipe(model={"source": str(folder)}, adapter="lora"))
    assert problem.key == "model.source"
    assert "weights quantised by 'mxfp4', over which nothing can be trained" in problem.what
    assert "bitsandbytes_4bit" in problem.hint


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_whole_weights_are_not_taken_for_quantised_ones(method, write_recipe):
    found = problems(write_recipe(model={"quantization": method}, adapter="lora"))
    assert "weights that are quantised already, and those in" in found[0].what
    assert found[0].hint.startswith("write `quantization: bitsandbytes_4bit`")


def test_a_model_that_is_not_here_yet_is_taken_at_the_recipes_word(write_recipe):
    recipe = resolve(
        write_recipe(model={"source": "owner/name", "quantization": "fp8"}, adapter="lora")
    )
    assert quantizer_of(recipe, None) == FP8()


def test_a_broken_config_is_said_to_be_broken(write_recipe, folder):
    (folder / "config.json").write_text("{", encoding="utf-8")
    found = problems(write_recipe(model={"source": str(folder)}, adapter="lora"))
    assert any("config.json' can't be read" in problem.what for problem in found)


def test_dora_over_eight_bits_is_refused_with_what_works(write_recipe):
    adapter = {"type": "lora", "use_dora": True}
    recipe = write_recipe(model={"quantization": "bitsandbytes_8bit"}, adapter=adapter)
    (problem,) = problems(recipe)
    assert problem.key == "adapter.use_dora"
    assert problem.hint == "write use_dora: false, or quantization: bitsandbytes_4bit"
    resolve(recipe, ["model.quantization=bitsandbytes_4bit"])
