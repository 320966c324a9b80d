"""Steps within the backward pass are the ordinary steps, with fewer gradients in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from architectures import batch_of, document, tiny_model
from conftest import read_rows

from framework.adapters.full import Full
from framework.api import check
from framework.core.problems import UserError
from framework.core.registries import registry
from framework.core.world import World
from framework.engine.in_backward import StepsInBackward
from framework.engine.parameter_groups import parameter_groups
from framework.models.policy import CausalPolicy
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve, resolve_with_origins
from framework.train import run

FITTING = {"global_batch_size": 2, "micro_batch_size": 2, "max_grad_norm": None}
IN_BACKWARD = {**FITTING, "optimizer_in_backward": True}
# With its states of 8 bits and such that draw random numbers.
OPTIMIZERS = [
    {"type": "adamw"},
    {"type": "adafactor"},
    {"type": "adamw_8bit"},
    {"type": "adamw_torchao"},
    {"type": "ademamix"},
    {"type": "apollo", "rank": 4},
    {"type": "galore", "rank": 4},
    {"type": "lion"},
    {"type": "muon"},
    {"type": "sgd", "momentum": 0.9},
]


def test_every_optimizer_that_can_is_tried():
    names = {settings["type"] for settings in OPTIMIZERS}
    assert names == set(registry("optimizers").names()) - {"schedule_free_adamw"}


@pytest.mark.parametrize(
    ("settings", "is_tied"),
    [(settings, False) for settings in OPTIMIZERS]
    + [(OPTIMIZERS[0], True), ({"type": "muon"}, True)],
    ids=str,
)
def test_it_trains_the_same_weights_bit_for_bit(write_recipe, settings, is_tied):
    """Three steps of both on a tiny Llama, embeddings tied or not."""
    recipe = resolve(write_recipe(trainer={"optimizer": settings, "weight_decay": 0.1}))
    trained = []
    for in_backward in (False, True):
        model = tiny_model("llama")
        if is_tied:
            model.lm_head.weight = model.model.embed_tokens.weight
        groups = parameter_groups(model, recipe.trainer, Full())
        optimizer = recipe.trainer.optimizer.build(groups, 1e-2)
        steps = StepsInBackward(optimizer) if in_backward else None
        policy, norms = CausalPolicy(model, None), []
        for step in range(3):
            batch = batch_of(document(20, step), document(11, step + 7))
            policy.negative_log_likelihood(batch).mean().backward()
            if steps is None:
                gradients = [one.grad for one in model.parameters()]
                norms.append(torch.nn.utils.get_total_norm(gradients).item())
                optimizer.step()
                optimizer.zero_grad()
            else:
                norms.append(steps.take_grad_norm())
                assert all(one.grad is None for one in model.parameters())
        trained.append((dict(model.named_parameters()), norms))
    (ordinary, ordinary_norms), (ours, norms) = trained
    assert norms == pytest.approx(ordinary_norms, rel=1e-5)
    for name, one in ordinary.items():
        assert torch.equal(ours[name], one), name


def test_gradients_of_the_whole_model_never_exist_at_once():
    """Counted whenever one is complete: after it was used, or after it was kept."""
    peaks = {}
    for in_backward in (False, True):
        model = tiny_model("llama")
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        peak = [0]

        def count(_, model=model, peak=peak):
            sizes = [one.grad.nbytes for one in model.parameters() if one.grad is not None]
            peak[0] = max(peak[0], sum(sizes))

        for one in model.parameters():
            one.register_post_accumulate_grad_hook(count)
        if in_backward:
            StepsInBackward(optimizer)
        batch = batch_of(document(20, 1))
        CausalPolicy(model, None).negative_log_likelihood(batch).mean().backward()
        peaks[in_backward] = peak[0]
    sizes = [one.nbytes for one in tiny_model("llama").parameters()]
    assert peaks == {False: sum(sizes), True: max(sizes)}


def test_a_whole_run_is_the_same_and_resumes(write_recipe, tmp_path):
    recipe = write_recipe(
        model={"dtype": "float32"},
        trainer={**FITTING, "max_steps": 4, "layer_decay": 0.9},
        checkpoint={"every_steps": 2},
    )
    ordinary, ours = tmp_path / "ordinary", tmp_path / "ours"
    run(recipe, [f"output.dir={ordinary}"])
    run(recipe, [f"output.dir={ours}", "trainer.optimizer_in_backward=true"])
    assert final(ours) == final(ordinary)
    (ours / "checkpoints" / "step-00000004" / "manifest.json").unlink()
    run(recipe, [f"output.dir={ours}", "trainer.optimizer_in_backward=true"])
    assert final(ours) == final(ordinary)
    rows, others = (read_rows(one / "metrics.jsonl") for one in (ours, ordinary))
    assert len(rows) == len(others) == 4
    for row, other in zip(rows, others, strict=True):
        assert row["loss"] == other["loss"]
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)


def final(run_dir: Path) -> bytes:
    return (run_dir / "final" / "model.safetensors").read_bytes()


def test_a_gradient_that_is_no_number_is_not_applied():
    model = tiny_model("llama")
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    steps = StepsInBackward(torch.optim.SGD(model.parameters(), lr=1e-3))
    loss = CausalPolicy(model, None).negative_log_likelihood(batch_of(document(9, 1))).mean()
    (loss * float("nan")).backward()
    norm = steps.take_grad_norm()
    assert norm != norm
    for name, one in model.named_parameters():
        assert torch.equal(one, before[name]), name


@pytest.mark.parametrize(
    ("trainer", "key", "hint"),
    [
        ({"max_grad_norm": 1.0}, "trainer.max_grad_norm", "write max_grad_norm: null"),
        ({"micro_batch_size": 1}, "trainer.micro_batch_size", "write micro_batch_size: auto"),
        (
            {"optimizer": "schedule_free_adamw", "lr_scheduler_type": "constant"},
            "trainer.optimizer_in_backward",
            "write `optimizer: adamw`, or optimizer_in_backward: false",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_line_to_write(write_recipe, trainer, key, hint):
    (problem,) = check(write_recipe(trainer={**IN_BACKWARD, **trainer}))
    assert (problem.key, problem.hint) == (key, hint)


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ({"num_processes": 2}, "gradients of 2 processes"),
        ({"device": "cuda", "fast_bfloat16": False}, "float16 gradients are scaled"),
    ],
)
def test_processes_and_scaled_gradients_are_refused_before_anything_is_loaded(
    write_recipe, world, said
):
    resolved = resolve_with_origins(write_recipe(trainer=IN_BACKWARD))
    here = dataclasses.replace(World.from_env(), **world)
    with pytest.raises(UserError, match=said):
        make_plan(resolved, here)
