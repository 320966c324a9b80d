"""More positions: written so that plain transformers reads them, and the same for every row."""

from __future__ import annotations

import json
import math
import subprocess

import pytest
import torch
from architectures import batch_of, build, document
from test_load import folder, load, recipe  # noqa: F401
from transformers import AutoConfig, AutoModelForCausalLM
from warm_start import FRAMEWORK

from framework.core.problems import UserError
from framework.model_sources.local import Local
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy
from framework.models.rope import num_positions, rope_arguments
from framework.recipe import schema
from framework.recipe.schema import RopeScaling

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def small(tmp_path):
    build("LlamaConfig", {}).save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def open_scaled(path, **settings):
    return load_weights(
        path,
        dtype="float32",
        attention="segmented_sdpa",
        rope_scaling=RopeScaling(**settings),
    )


def inverse_frequencies(model):
    return model.model.rotary_emb.inv_freq


def test_linear_and_yarn_are_their_equations(small):
    base = 10000 ** -(torch.arange(0, 16, 2) / 16)
    linear = open_scaled(small, type="linear", factor=4.0)
    assert torch.allclose(inverse_frequencies(linear), base / 4)
    assert num_positions(linear) == 512
    yarn = open_scaled(small, type="yarn", factor=4.0)
    # Peng et al. 2023: rotations over the 128 positions, a ramp from 1 to 32 of them.
    rotations = 128 * base / (2 * math.pi)
    found = inverse_frequencies(yarn)
    assert torch.allclose(found[rotations > 32], base[rotations > 32])
    assert torch.allclose(found[rotations < 0.5], base[rotations < 0.5] / 4)
    assert (base / 4 <= found * 1.0001).all() and (found <= base * 1.0001).all()
    assert yarn.model.rotary_emb.attention_scaling == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize("kind", ["linear", "yarn", "dynamic"])
def test_plain_transformers_computes_the_same_from_the_saved_folder(small, tmp_path, kind):
    model = open_scaled(small, type=kind, factor=2.0).eval()
    assert num_positions(model) == 256
    model.save_pretrained(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    tokens = torch.tensor([document(200, seed=1).tokens])
    with torch.no_grad():
        ours = CausalPolicy(model).logits(batch_of(document(200, seed=1)))
        theirs = plain.eval()(tokens).logits[0, :-1]
        unscaled = build("LlamaConfig", {}).eval()(tokens).logits[0, :-1]
    assert (ours - theirs).abs().max() < 1e-5  # float32 sums in another order
    assert (ours - unscaled).abs().max() > 1e-3


def test_dynamic_rotations_do_not_depend_on_rows_before(small):
    model = open_scaled(small, type="dynamic", factor=2.0).eval()
    rows = {length: batch_of(document(length, seed=1)) for length in (60, 150, 220)}
    policy = CausalPolicy(model)
    with torch.no_grad():
        first = {length: policy.logits(row) for length, row in rows.items()}
        for length in (220, 150, 60, 150):
            assert torch.equal(policy.logits(rows[length]), first[length]), length


def test_scaled_positions_let_rows_be_longer_and_no_longer_than_that(folder):  # noqa: F811
    source = Local(path=str(folder))
    scaled = schema.Model(source=source, rope_scaling=RopeScaling(type="yarn", factor=2.0))
    bundle, _ = load(recipe(folder, model=scaled, max_length=1024))
    assert bundle.model.config.max_position_embeddings == 1024
    with pytest.raises(UserError, match="1025 is longer than the model's 1024 positions"):
        load(recipe(folder, model=scaled, max_length=1025))
    with pytest.raises(UserError, match=r"rope_scaling: \{type: yarn, factor: 2\}"):
        load(recipe(folder, model=schema.Model(source=source), max_length=1024))


def test_positions_that_are_scaled_already_or_not_rotary_are_refused(small, tmp_path):
    open_scaled(small, type="yarn", factor=2.0).save_pretrained(tmp_path / "again")
    with pytest.raises(UserError, match=r"scaled already \(yarn\)"):
        rope_arguments(tmp_path / "again", RopeScaling(type="linear", factor=2.0))
    build("GPT2Config", {"n_head": 4, "n_layer": 1}).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match="no rotary positions"):
        rope_arguments(tmp_path / "gpt2", RopeScaling(type="linear", factor=2.0))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+model.rope_scaling={type: dynamic, factor: 2}"], "depend on the longest one"),
        (["+model.rope_scaling={type: linear, factor: 2, beta_fast: 3}"], "is a setting of"),
        (["+model.shifted_attention={group_size: 128}"], "every document would be one group"),
        (["+model.shifted_attention={}", "+model.attention=eager"], "computed by `sdpa`"),
        (["+model.float8=true", "+adapter=lora"], "leaves them frozen"),
        (["+model.compile=true", "+adapter=lisa"], "would be compiled anew"),
    ],
)
def test_conflicts_are_found_before_anything_is_loaded(write_recipe, overrides, said):
    from framework.recipe.resolve import resolve

    with pytest.raises(UserError) as caught:
        resolve(write_recipe(), overrides)
    assert said in str(caught.value)
    assert all(problem.hint for problem in caught.value.problems)


def test_a_longlora_run_loads_in_plain_peft_with_its_positions(
    write_recipe, tmp_path, tiny_model_dir
):
    modules = ["embed_tokens", "lm_head", "input_layernorm", "post_attention_layernorm", "norm"]
    path = write_recipe(
        model={
            "dtype": "float32",
            "rope_scaling": {"type": "yarn", "factor": 2},
            "shifted_attention": {"group_size": 16},
        },
        data={"eval": [{"source": "./eval.jsonl"}]},
        adapter={"type": "lora", "r": 2, "modules_to_save": modules},
    )
    command = [*FRAMEWORK]
    ended = subprocess.run(
        [*command, "train", str(path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    final = tmp_path / "run" / "final"
    assert "config = AutoConfig.from_pretrained" in (final / "README.md").read_text()
    from peft import PeftModel

    config = AutoConfig.from_pretrained(final)
    assert config.max_position_embeddings == 1024
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, config=config)
    model = PeftModel.from_pretrained(base, final).eval()
    merged = subprocess.run(
        [*command, "merge", str(tmp_path / "run"), "--output", str(tmp_path / "merged"), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert merged.returncode == 0, merged.stderr
    assert json.loads(merged.stdout)["largest_difference"] < 1e-4
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokens = torch.arange(5, 105)[None]
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, whole(tokens).logits, atol=1e-4)
