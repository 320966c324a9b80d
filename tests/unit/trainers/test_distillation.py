"""Distillation runs: whose teacher it is, when it is asked, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import read_rows

from framework.core.problems import UserError
from framework.recipe.resolve import resolve
from framework.train import run

ASKING = "asking the teacher"


@pytest.fixture
def write_distillation(write_recipe, opinionated_model_dir):
    """Writes a recipe with a teacher; keywords are further settings of the trainer."""

    def write(name="recipe.yaml", data=None, **trainer):
        settings = {
            "type": "distillation",
            "teacher": str(opinionated_model_dir),
            "max_steps": 2,
            "learning_rate": 1e-2,
            **trainer,
        }
        data = {"eval": [{"source": "./eval.jsonl"}], **(data or {})}
        return write_recipe(name, model={"dtype": "float32"}, data=data, trainer=settings)

    return write


def metrics(output):
    return [
        {name: row[name] for name in row if name.removeprefix("eval_") in NAMES}
        for row in read_rows(output / "metrics.jsonl")
    ]


NAMES = {"loss", "divergence", "cross_entropy", "grad_norm"}


def num_asked(output):
    return (output / "log.txt").read_text(encoding="utf-8").count(ASKING)


def only_problem(caught):
    (problem,) = caught.value.problems
    return problem


# ---- when the teacher is asked


def test_all_probabilities_kept_beforehand_train_as_the_teacher_does_and_are_asked_for_once(
    write_distillation, tmp_path, tiny_model_dir
):
    from transformers import AutoConfig

    vocabulary = AutoConfig.from_pretrained(tiny_model_dir).vocab_size
    online = write_distillation("online.yaml", temperature=1.5, alpha=0.5)
    offline = write_distillation("offline.yaml", temperature=1.5, alpha=0.5, top_k=vocabulary)
    run(online, [f"output.dir={tmp_path / 'online'}"])
    run(offline, [f"output.dir={tmp_path / 'offline'}"])
    expected, found = metrics(tmp_path / "online"), metrics(tmp_path / "offline")
    assert len(expected) == 3
    for row, one in zip(found, expected, strict=True):
        assert row == {name: pytest.approx(value, rel=1e-4) for name, value in one.items()}
    assert num_asked(tmp_path / "online") == 0
    # Once for the training data and once for the held-out data.
    assert num_asked(tmp_path / "offline") == 2
    said = {name: (tmp_path / name / "log.txt").read_text() for name in ("online", "offline")}
    assert "weights float32, asked at every step" in said["online"]
    labels = 128 + 32  # of the 16 and the 4 rows
    megabytes = labels * vocabulary * 8 / 1e6
    kept = f"{vocabulary} most likely tokens at each of {labels} labels, {megabytes:.1f} MB on disk"
    assert kept in said["offline"]

    # Neither belongs to what the teacher said, and so does not ask it again.
    again = ["trainer.divergence=reverse_kl", "trainer.alpha=1.0"]
    run(offline, [*again, f"output.dir={tmp_path / 'again'}"])
    assert num_asked(tmp_path / "again") == 0
    run(offline, ["trainer.temperature=2.0", f"output.dir={tmp_path / 'other'}"])
    assert num_asked(tmp_path / "other") == 2


@pytest.mark.slow
def test_one_process_and_two_ask_and_train_alike(write_distillation, launched, tmp_path):
    recipe = write_distillation(top_k=16, alpha=0.5, data={"packing": False}, global_batch_size=4)
    launched(recipe, f"output.dir={tmp_path / 'run-2'}", num_processes=2)
    run(recipe, [f"output.dir={tmp_path / 'run-1'}"])
    one, two = metrics(tmp_path / "run-1"), metrics(tmp_path / "run-2")
    assert len(one) == 3
    for row, other in zip(two, one, strict=True):
        assert row == {name: pytest.approx(value, rel=1e-4) for name, value in other.items()}
    # The first run asked; what it kept is the second one's too.
    assert num_asked(tmp_path / "run-1") == 0


def test_parts_of_the_data_are_kept_apart_and_put_together_again(
    write_distillation, tmp_path, monkeypatch
):
    from framework.engine import teacher

    recipe = write_distillation(top_k=8, data={"packing": False})
    alone = "trainer.micro_batch_size=1"  # so that all sums are rounded alike
    run(recipe, [f"output.dir={tmp_path / 'whole'}", alone])
    monkeypatch.setattr(teacher, "UNITS_OF_A_SHARD", 3)
    run(recipe, [f"output.dir={tmp_path / 'parts'}", alone])
    assert num_asked(tmp_path / "whole") == 2
    assert num_asked(tmp_path / "parts") == 6 + 2  # of 16 and 4 rows
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


# ---- what is refused before training


def test_a_teacher_with_other_token_ids_is_refused(
    write_distillation, opinionated_model_dir, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(opinionated_model_dir, other)
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        run(write_distillation(teacher=str(other)))
    problem = only_problem(caught)
    assert problem.key == "trainer.teacher"
    assert "one of 2 differences" in problem.what
    assert f"'a' has id {vocabulary['a']} there and has id {vocabulary['b']} here" in problem.what
    assert "sft" in problem.hint
    assert not list((tmp_path / "run").glob("checkpoints"))


def test_a_teacher_with_fewer_tokens_is_refused(
    write_distillation, opinionated_model_dir, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(opinionated_model_dir, other)
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    merged = tokenizer["model"]["merges"].pop()
    joined = "".join(merged)
    del tokenizer["model"]["vocab"][joined]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        run(write_distillation(teacher=str(other)))
    assert f"{joined!r} is no token there" in only_problem(caught).what


def test_a_teacher_that_is_not_there_is_refused_under_its_own_key(write_distillation, tmp_path):
    with pytest.raises(UserError) as caught:
        resolve(write_distillation(teacher=str(tmp_path / "nobody")))
    problem = only_problem(caught)
    assert problem.key == "trainer.teacher"
    assert "does not exist" in problem.what


def test_a_teacher_whose_weights_are_not_all_there_is_refused_under_its_own_key(
    write_distillation, opinionated_model_dir, tmp_path
):
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(opinionated_model_dir, other)
    weights = load_file(other / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as caught:
        run(write_distillation(teacher=str(other)))
    problem = only_problem(caught)
    assert problem.key == "trainer.teacher"
    assert "model.norm.weight" in problem.what


def test_more_tokens_than_the_vocabulary_has_are_refused(write_distillation):
    with pytest.raises(UserError) as caught:
        run(write_distillation(top_k=100_000))
    problem = only_problem(caught)
    assert (problem.key, problem.hint) == ("trainer.top_k", "write top_k: 64")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["trainer.beta=0.5"], "trainer.beta"),
        (["+tokenizer.add_tokens=[<new>]"], "tokenizer.add_tokens"),
        (["+data.streaming={}", "trainer.top_k=8", "+checkpoint.every_steps=1"], "trainer.top_k"),
        (["trainer.alpha=0"], "trainer.alpha"),
        (["trainer.teacher=null"], "trainer.teacher"),
    ],
)
def test_settings_that_can_not_work_are_refused_by_check(write_distillation, overrides, key):
    recipe = write_distillation(beta=None, top_k=None)
    with pytest.raises(UserError) as caught:
        resolve(recipe, overrides)
    assert only_problem(caught).key == key


def test_a_recipe_without_a_teacher_is_refused_with_the_key_to_add(write_recipe):
    with pytest.raises(UserError) as caught:
        resolve(write_recipe(trainer={"type": "distillation"}))
    problem = only_problem(caught)
    assert (problem.key, problem.hint) == ("trainer.teacher", "add `teacher:`")
