"""Whose folder a run's folder is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from conftest import write_rows

from framework.core.problems import Refused
from framework.core.settings import rule_of
from framework.core.world import World
from framework.planning.plan import make_plan
from framework.recipe.build import field_types, fields_of
from framework.recipe.resolve import resolve_with_origins
from framework.recipe.schema import Recipe
from framework.runs.run_directory import open_run


def test_a_start_that_was_killed_while_it_wrote_what_run_it_is_can_be_made_again(
    write_recipe, tmp_path
):
    plan = make_plan(resolve_with_origins(write_recipe()), World())
    run = tmp_path / "run"
    run.mkdir()
    for name in (".lock", ".settings.json.half"):
        (run / name).touch()
    with open_run(plan):
        assert (run / "settings.json").is_file()


def test_what_ended_before_its_first_step_starts_again_with_a_corrected_recipe(
    write_recipe, tmp_path
):
    for learning_rate in ("0.001", "0.002"):
        recipe = write_recipe(**{"trainer.learning_rate": float(learning_rate)})
        with open_run(make_plan(resolve_with_origins(recipe), World())):
            pass
        settings = json.loads((tmp_path / "run" / "settings.json").read_text(encoding="utf-8"))
        assert settings["trainer.learning_rate"] == learning_rate


@pytest.mark.parametrize("name", ["thesis.tex", ".git", "settings.json.old"])
def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(write_recipe, tmp_path, name):
    plan = make_plan(resolve_with_origins(write_recipe()), World())
    run = tmp_path / "run"
    run.mkdir()
    (run / name).touch()
    with pytest.raises(Refused, match="not from a run"), open_run(plan):
        pass
    assert [path.name for path in run.iterdir()] == [name]


LORA = {"adapter": {"type": "lora", "r": 4}}
DATASET = {"source": "./train.jsonl"}
EACH_STEP = {"checkpoint.every_steps": 1, "evaluation.every_steps": 1}
WITH_AND_WITHOUT: dict[str, tuple[Any, dict[str, Any]]] = {
    "model.quantization": ("bitsandbytes_4bit", LORA),
    "model.rope_scaling": ({"type": "linear", "factor": 4}, {}),
    "model.shifted_attention": ({"group_size": 32}, {}),
    "data.split": ({"eval": 0.25}, {}),
    "data.cleaners": (["exact_duplicates"], {}),
    "data.streaming": ({}, {"checkpoint.every_steps": 1}),
    "trainer.parameter_groups": ([{"pattern": ".", "learning_rate": 0.5}], {}),
    "trainer.ema": ({}, {}),
}
"""Section or list that a recipe may have or not -> (what it may be, what else the recipe has)."""
HELD_OUT = ("data.eval", "data.test")
"""Lists without which a run may go on, and that it can't get."""
FREE_WITH_AND_WITHOUT: dict[str, tuple[Any, dict[str, Any]]] = {
    "trainer.loss_spike": ({}, {}),
    "checkpoint.keep_best": ({}, {"data.eval": [DATASET], **EACH_STEP}),
    "evaluation.early_stopping": ({}, {"data.eval": [DATASET], **EACH_STEP}),
    "evaluation.evaluators": (["exact_match"], {"data.test": [DATASET]}),
    "tracking.trackers": (["tensorboard"], {}),
    "model.gradient_checkpointing": ({"every_layers": 2}, {}),
}
"""The same, of what a run that goes on may change."""


def start(recipe: Path) -> None:
    """What every start of a run does first, and the record of a step."""
    with open_run(make_plan(resolve_with_origins(recipe), World())) as directory:
        directory.append("samples.jsonl", {"step": 1, "ids": []})


def optional_keys(owner: type, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Keys of a section that may hold a section, a component or several, or nothing."""
    for name, annotation in field_types(owner).items():
        rule = rule_of(fields_of(owner)[name])
        options = get_args(annotation)
        kinds = [one for one in options if dataclasses.is_dataclass(one)]
        is_slot = rule.slot and not rule.inline and (type(None) in options or ... in options)
        if kinds or is_slot:
            yield ".".join((*path, name))
        elif dataclasses.is_dataclass(annotation):
            yield from optional_keys(cast("type", annotation), (*path, name))


def test_every_section_that_may_be_left_out_is_tried_here():
    tried = {*WITH_AND_WITHOUT, *FREE_WITH_AND_WITHOUT, *HELD_OUT, "data.train"}
    assert set(optional_keys(Recipe)) == tried


@pytest.mark.parametrize("key", WITH_AND_WITHOUT)
def test_a_section_that_only_one_of_two_starts_has_makes_another_run(write_recipe, tmp_path, key):
    value, others = WITH_AND_WITHOUT[key]
    without = write_recipe("without.yaml", **others)
    with_it = write_recipe("with.yaml", **others, **{key: value})
    for number, (first, second) in enumerate([(without, with_it), (with_it, without)]):
        folder = tmp_path / "run"
        start(first)
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        with pytest.raises(Refused) as refused:
            start(second)
        assert [problem.key for problem in refused.value.problems] == [key]
        (problem,) = refused.value.problems
        assert "the run in " in problem.what and "write " in problem.hint
        after = {file.name: file.read_bytes() for file in folder.iterdir()}
        assert before == after, "the folder says what the run is, not what was refused"
        start(first)
        folder.rename(tmp_path / f"run-{number}")


@pytest.mark.parametrize("key", FREE_WITH_AND_WITHOUT)
def test_what_says_how_a_run_is_watched_and_kept_may_come_and_go(write_recipe, key):
    value, others = FREE_WITH_AND_WITHOUT[key]
    without = write_recipe("without.yaml", **others)
    with_it = write_recipe("with.yaml", **others, **{key: value})
    for recipe in (without, with_it, without):
        start(recipe)


@pytest.mark.parametrize("key", HELD_OUT)
def test_held_out_rows_may_go_and_others_may_not_come(write_recipe, key):
    start(write_recipe(**{key: [DATASET, {**DATASET, "name": "more"}]}))
    with pytest.raises(Refused):
        start(write_recipe(**{key: [DATASET]}))
    start(write_recipe())
    with pytest.raises(Refused) as refused:
        start(write_recipe(**{key: [DATASET]}))
    assert [problem.key for problem in refused.value.problems] == [key]


@pytest.mark.parametrize("sizes", [(1, "auto"), ("auto", 1), (2, 1), (1, 2)])
def test_how_many_samples_share_a_forward_pass_may_change_as_far_as_only_rounding_follows(
    write_recipe, sizes
):
    for size in sizes:
        start(write_recipe(**{"trainer.micro_batch_size": size}))


def test_an_online_run_may_say_auto_for_the_number_that_it_stands_for(write_online):
    start(write_online("grpo", num_generations=4, micro_batch_size=1))
    start(write_online("grpo", num_generations=4, micro_batch_size="auto"))
    with pytest.raises(Refused, match=r"trainer\.micro_batch_size: is 2, the run in"):
        start(write_online("grpo", num_generations=4, micro_batch_size=2))


@pytest.mark.parametrize(
    "trainer", [{"type": "kto"}, {"type": "dpo", "loss_type": {"sigmoid": 1.0, "aot": 0.5}}]
)
def test_it_stays_where_samples_are_compared_with_those_beside_them(
    write_recipe, tmp_path, trainer
):
    if trainer["type"] == "kto":
        kind, row = "unpaired_preference", {"prompt": "?", "completion": ".", "label": True}
    else:
        kind, row = "preference", {"prompt": "?", "chosen": ".", "rejected": "!"}
    write_rows(tmp_path / "rows.jsonl", [row])
    settings = {
        "data.train": [{"source": "./rows.jsonl", "format": kind}],
        "data.packing": False,
    }
    batch = {**trainer, "global_batch_size": 4}
    start(write_recipe(**settings, trainer={**batch, "micro_batch_size": 4}))
    with pytest.raises(Refused) as refused:
        start(write_recipe(**settings, trainer={**batch, "micro_batch_size": 2}))
    assert [one.key for one in refused.value.problems] == ["trainer.micro_batch_size"]


def test_another_item_of_a_list_makes_another_run(write_recipe):
    groups = [{"pattern": "norm", "weight_decay": 0.1}, {"pattern": ".", "learning_rate": 0.5}]
    start(write_recipe(**{"trainer.parameter_groups": groups[:1]}))
    with pytest.raises(Refused) as refused:
        start(write_recipe(**{"trainer.parameter_groups": groups}))
    (problem,) = refused.value.problems
    assert problem.key == "trainer.parameter_groups[1]"
    assert "is {pattern: ., learning_rate: 0.5}, " in problem.what
    assert problem.what.endswith("was started with none")
    assert problem.hint.startswith("leave it out to go on with it, ")


def test_a_refused_change_says_what_to_write(write_recipe, tmp_path):
    start(write_recipe(**{"trainer.ema": {"decay": 0.9}}))
    with pytest.raises(Refused) as refused:
        start(write_recipe(**{"trainer.learning_rate": 2e-3, "data.split": {"eval": 0.25}}))
    said = {problem.key: problem for problem in refused.value.problems}
    run = str(tmp_path / "run")
    assert said["trainer.learning_rate"].what == (
        f"is 0.002, the run in {run!r} was started with 0.001"
    )
    other = "or another output.dir for another run"
    assert said["trainer.learning_rate"].hint == (
        f"write `trainer.learning_rate: 0.001` to go on with it, {other}"
    )
    assert "{eval: 0.25, " in said["data.split"].what
    assert said["data.split"].hint.startswith("write `data.split: null` to go on with it, ")
    whole = f"{run}/resolved.yaml"
    assert said["trainer.ema"].hint == f"write it as {whole!r} has it to go on with it, {other}"


def test_a_setting_that_another_version_did_not_have_is_no_change(write_recipe, tmp_path):
    recipe = write_recipe(**LORA)
    start(recipe)
    path = tmp_path / "run" / "settings.json"
    settings = json.loads(path.read_text())
    del settings["model.tf32"], settings["adapter.lora_alpha"], settings["trainer.ema"]
    path.write_text(json.dumps({**settings, "trainer.of_old": "1", "model.of_old.type": "x"}))
    start(recipe)
    assert json.loads(path.read_text())["model.tf32"] == "false"


@pytest.mark.parametrize("key", ["strategy", "tokenizer.backend"])
def test_what_computes_the_same_may_be_another_one(write_recipe, key):
    first, second = {
        "strategy": ("ddp", "fsdp"),
        # The default of earlier versions, and that of now.
        "tokenizer.backend": ("tokenizers", "auto"),
    }[key]
    for name in (first, second, first):
        start(write_recipe(**{key: name}))
