"""Runs whose model gives numbers: served by plain libraries, merged, resumed, refused kindly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch
from conftest import read_rows, write_rows
from safetensors.torch import load_file
from transformers import AutoTokenizer

from framework.core.batch import Encoded, Features, read_at_end
from framework.core.problems import UserError
from framework.core.world import World
from framework.data.prepared import prepare_data
from framework.engine.export import save_model
from framework.engine.fit import fit
from framework.models.collate import flat_batch
from framework.models.heads import head_note, policy_of
from framework.models.load import load_bundle, load_weights
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve, resolve_with_origins
from framework.runs.merge import merge
from framework.runs.result import Origin
from framework.runs.run_directory import open_run
from framework.runs.trained import FinishedRun
from framework.train import run
from framework.trainers.classifier import Classifier

ROWS = [
    {"text": f"a {word} day {number}", "label": label}
    for number in range(8)
    for word, label in (("fine", "good"), ("poor", "bad"))
]
STEPS = [{"prompt": "Go.", "completions": ["left", "right"], "labels": [True, False]}] * 8
TRAINED_HEAD = Classifier(labels=("good", "bad"))
PROBE = (5, 9, 30, 31, 7, 60)
ELSEWHERE = """
import json, sys
import torch
import transformers
try:
    import framework
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("framework can be imported")
kind = getattr(transformers, sys.argv[1])
final, base, tokens = sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
if base:
    from peft import PeftModel
    model = kind.from_pretrained(base, num_labels=2, dtype="float32")
    model = PeftModel.from_pretrained(model, final)
else:
    model = kind.from_pretrained(final, dtype="float32")
with torch.no_grad():
    print(json.dumps(model.eval()(input_ids=torch.tensor([tokens])).logits.tolist()))
"""
TRAINERS = {
    "classifier": {"type": "classifier", "labels": ["good", "bad"]},
    "process_reward": {"type": "process_reward"},
}


@pytest.fixture
def written(write_recipe, tmp_path):
    def write(trainer: str, adapter: str, **settings: Any):
        rows, form = (ROWS, "classification") if trainer == "classifier" else (STEPS, "stepwise")
        write_rows(tmp_path / "rated.jsonl", rows)
        return write_recipe(
            model={"dtype": "float32"},
            data={"train": [{"source": "./rated.jsonl", "format": form}], "max_length": 128},
            adapter=adapter,
            trainer={"max_steps": 4, "learning_rate": 1e-2, **TRAINERS[trainer]},
            checkpoint={"every_steps": 2, "keep_last": 9},
            **settings,
        )

    return write


@pytest.fixture
def padded_with_its_end(tiny_model_dir, tmp_path):
    """The tiny model, whose texts end in the token that fills rows, as SmolLM2's do."""
    folder = tmp_path / "padded_with_its_end"
    shutil.copytree(tiny_model_dir, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_text_that_ends_in_the_padding_token_is_trained_where_transformers_reads_it(
    adapter, written, padded_with_its_end, tmp_path
):
    recipe = written("classifier", adapter, **{"model.source": str(padded_with_its_end)})
    run(recipe)
    finished = FinishedRun.open(tmp_path / "run")
    features = prepare_data(resolve(recipe)).train.features(0)
    tokens = features.documents[0].tokens
    model = finished.trained_model(torch.float32).eval()
    assert tokens[-1] == finished.tokenizer.pad_token_id
    with torch.no_grad():
        ours = policy_of(model).logits(flat_batch([features], ["probe"]))
        theirs = model(input_ids=torch.tensor([tokens])).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_plain_libraries_say_what_the_trained_model_says(
    trainer, adapter, written, tiny_model_dir, tmp_path
):
    plan = make_plan(resolve_with_origins(written(trainer, adapter)), World.from_env())
    with open_run(plan) as directory:
        data = prepare_data(plan.recipe)
        bundle = load_bundle(plan, data.model_path, data.tokenizer)
        fit(plan, data, bundle, directory)
        save_model(bundle.model, data, tmp_path / "final", plan, Origin(step=0, num_steps=0))
    document = read_at_end(Encoded(tokens=PROBE, trained=(False,) * len(PROBE)))
    with torch.no_grad():
        policy = policy_of(bundle.model.eval())
        ours = policy.logits(flat_batch([Features(documents=(document,))], ["probe"]))[0]
    per_token = trainer == "process_reward"
    kind = f"AutoModelFor{'Token' if per_token else 'Sequence'}Classification"
    base = str(tiny_model_dir) if adapter == "lora" else ""
    arguments = [kind, str(tmp_path / "final"), base, json.dumps(PROBE)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", ELSEWHERE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_without_us(tmp_path))},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    theirs = torch.tensor(json.loads(done.stdout.splitlines()[-1]))[0]
    theirs = theirs[-1] if per_token else theirs
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def _without_us(folder):
    """A folder whose `sitecustomize` takes this package out of sight."""
    hiding = folder / "hiding"
    hiding.mkdir(exist_ok=True)
    (hiding / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'framework':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n",
        encoding="utf-8",
    )
    return hiding


def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(written, tmp_path):
    recipe, directory = written("classifier", "lora"), tmp_path / "run"
    run(recipe)
    whole = load_file(directory / "final" / "adapter_model.safetensors")
    losses = [row["loss"] for row in read_rows(directory / "metrics.jsonl")]
    shutil.rmtree(directory / "final")
    shutil.rmtree(directory / "checkpoints" / "step-00000004")
    run(recipe)
    again = load_file(directory / "final" / "adapter_model.safetensors")
    assert any("score" in name for name in whole)
    assert all(whole[name].equal(again[name]) for name in whole)
    assert losses == [row["loss"] for row in read_rows(directory / "metrics.jsonl")]


def test_the_merged_classifier_is_the_trained_one(written, tmp_path):
    run(written("classifier", "lora"))
    proof = merge(FinishedRun.open(tmp_path / "run"), tmp_path / "merged", "float32")
    assert proof.largest_difference <= 1e-4 < proof.largest_change
    config = json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "good", "1": "bad"}


def test_a_model_that_names_no_padding_is_merged_with_the_tokenizers(
    written, tiny_model_dir, tmp_path
):
    folder = tmp_path / "without_padding"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    run(written("classifier", "lora", **{"model.source": str(folder)}))
    finished = FinishedRun.open(tmp_path / "run")
    merge(finished, tmp_path / "merged", "float32")
    config = json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    assert config["pad_token_id"] == finished.tokenizer.pad_token_id


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"evaluation": {"num_generations": 2}}, "asks the model for answers"),
        ({"data.over_length": "truncate"}, "the model is read at their ends"),
        ({"adapter": "prompt_tuning"}, "trains no head beside them"),
    ],
)
def test_what_a_head_cannot_do_is_refused_before_anything_is_loaded(settings, said, written):
    recipe = written("classifier", "lora")
    values = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    with pytest.raises(UserError, match=said):
        resolve(recipe, values)


def test_a_label_that_is_no_class_names_the_classes(written, tmp_path):
    recipe = written("classifier", "lora")
    write_rows(tmp_path / "rated.jsonl", [*ROWS, {"text": "odd", "label": "god"}])
    with pytest.raises(UserError, match=r"'god' is none of `trainer.labels`: good, bad"):
        run(recipe)


def test_a_head_that_the_checkpoint_has_goes_on(written, tmp_path):
    run(written("classifier", "full"))
    final = tmp_path / "run" / "final"
    head = TRAINED_HEAD.head()
    model = load_weights(final, dtype="float32", attention="sdpa", head=head, seed=5)
    saved = load_file(final / "model.safetensors")["score.weight"]
    assert model.get_submodule("score").get_parameter("weight").equal(saved)
    assert head_note(head, final) == "head: 2 outputs (good, bad), as the checkpoint has it"


def test_a_head_of_other_classes_is_refused_with_those_that_it_has(written, tmp_path):
    run(written("classifier", "full"))
    final = tmp_path / "run" / "final"
    with pytest.raises(UserError, match=r"stands for good, bad.*labels: \[good, bad\]"):
        load_weights(
            final,
            dtype="float32",
            attention="sdpa",
            head=Classifier(labels=("bad", "good")).head(),
        )


def test_an_adapter_that_leaves_the_head_as_it_was_drawn_is_refused(written):
    recipe = written("classifier", "lora")
    with pytest.raises(UserError, match="leaves the model's head as it is"):
        resolve(recipe, ["adapter={type: freeze, trainable: [layers.1]}"])
    resolve(recipe, ["adapter={type: freeze, trainable: [layers.1, score]}"])
