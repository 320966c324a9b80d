"""Supervised trainers: weights of rows, what the loss is the mean over, noise, refusals."""

from __future__ import annotations

import json

import pytest
import torch
from architectures import batch_of, document, tiny_model
from conftest import read_rows

from framework.core.batch import Features
from framework.core.problems import UserError
from framework.core.samples import Completion, Conversation, Document, Message, Tokenized
from framework.data.prepared import prepare_data
from framework.models.collate import flat_batch
from framework.models.policy import CausalPolicy
from framework.recipe.resolve import resolve
from framework.train import run
from framework.trainers.pretrain import Pretrain
from framework.trainers.sft import SFT

TOLERANCE = 1e-5  # float32 sums in another order
LONG, SHORT = document(30, seed=1, num_prompt_tokens=4), document(9, seed=2)


def weighted(*pairs):
    samples = [Features(documents=(one,), numbers=(weight,)) for one, weight in pairs]
    return flat_batch(samples, [f"t:{at}" for at in range(len(samples))])


def gradients_of(trainer, *batches):
    """Of the mean over all batches, as the engine computes it."""
    model = tiny_model("llama")
    num_items = sum(trainer.num_items(batch) for batch in batches)
    losses = [trainer.loss(CausalPolicy(model), None, batch) for batch in batches]
    (sum(loss.sum for loss in losses) / num_items).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= TOLERANCE * gradient.norm(), name


# ---- weights


@pytest.mark.parametrize("trainer", [SFT(), SFT(loss_normalisation="sequence"), Pretrain()])
def test_a_row_of_weight_2_is_the_row_twice(trainer):
    once = gradients_of(trainer, weighted((LONG, 2.0), (SHORT, 1.0)))
    twice = gradients_of(trainer, weighted((LONG, 1.0), (SHORT, 1.0), (LONG, 1.0)))
    assert_same(once, twice)


def test_a_row_of_weight_0_is_no_row():
    assert_same(
        gradients_of(SFT(), weighted((LONG, 0.0), (SHORT, 1.0))),
        gradients_of(SFT(), weighted((SHORT, 1.0))),
    )


def test_the_mean_over_sequences_is_the_mean_of_their_means():
    trainer, policy = SFT(loss_normalisation="sequence"), CausalPolicy(tiny_model("llama"))
    means = [policy.negative_log_likelihood(batch_of(one)).mean() for one in (LONG, SHORT)]
    batch = weighted((LONG, 1.0), (SHORT, 3.0))
    expected = (means[0] + 3 * means[1]) / 4
    found = trainer.loss(policy, None, batch).sum / trainer.num_items(batch)
    assert found.item() == pytest.approx(expected.item(), abs=TOLERANCE)
    assert trainer.num_items(batch) == pytest.approx(4)


@pytest.mark.parametrize("normalisation", ["token", "sequence"])
def test_a_batch_split_in_two_has_the_same_gradient(normalisation):
    trainer = SFT(loss_normalisation=normalisation, label_smoothing=0.1, z_loss=0.01)
    pairs = [(LONG, 0.5), (SHORT, 2.0), (document(20, seed=3), 1.0)]
    whole = gradients_of(trainer, weighted(*pairs))
    assert_same(gradients_of(trainer, *(weighted(pair) for pair in pairs)), whole)


@pytest.mark.parametrize(
    "trainer",
    [SFT(), SFT(loss_type="dft", z_loss=1e-4), SFT(label_smoothing=0.1), Pretrain(z_loss=1e-4)],
)
def test_a_batch_without_samples_has_a_zero_loss_that_reaches_every_parameter(trainer):
    model, empty = tiny_model("llama"), flat_batch([], [])
    loss = trainer.loss(CausalPolicy(model), None, empty)
    assert trainer.num_items(empty) == 0
    full = trainer.loss(CausalPolicy(model), None, weighted((SHORT, 1.0)))
    assert loss.metrics.keys() == full.metrics.keys()
    loss.sum.backward()
    assert loss.sum.item() == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def weighted_recipe(write_recipe, tmp_path, weights, **overrides):
    recipe = write_recipe(**overrides)
    rows = read_rows(tmp_path / "train.jsonl")
    lines = [{**row, **weight} for row, weight in zip(rows, weights, strict=False)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return resolve(recipe, ["+data.train.0.loss_weight_column=quality"])


def test_weights_of_rows_are_kept_with_the_samples(write_recipe, tmp_path):
    weights = [{"quality": value} for value in (2, 0.5, 0)]
    store = prepare_data(weighted_recipe(write_recipe, tmp_path, weights)).train
    assert [store.features(at).numbers for at in range(3)] == [(2.0,), (0.5,), (0.0,)]


def test_what_is_cut_keeps_its_weight(write_recipe, tmp_path):
    data = {"max_length": 32, "over_length": "windows", "train_on": ["user", "assistant"]}
    weights = [{"quality": 0.25}]
    store = prepare_data(weighted_recipe(write_recipe, tmp_path, weights, data=data)).train
    assert store.num_samples > 1
    assert {store.features(at).numbers for at in range(store.num_samples)} == {(0.25,)}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "has no column 'quality'"),
        ({"quality": "high"}, "'high', not a weight"),
        ({"quality": -1}, "-1, not a weight"),
        ({"quality": True}, "True, not a weight"),
    ],
)
def test_a_row_without_a_weight_is_refused_before_anything_is_loaded(
    write_recipe, tmp_path, row, said
):
    with pytest.raises(UserError) as caught:
        weighted_recipe(write_recipe, tmp_path, [row])
    (problem,) = caught.value.problems
    assert said in problem.what
    assert problem.key == "data.train[0].loss_weight_column"
    assert (problem.file, problem.line) == (str(tmp_path / "train.jsonl"), 1)


@pytest.mark.parametrize(
    "sample",
    [
        Conversation(messages=(Message(role="user", content="a"),), weight=0.5),
        Completion(prompt="a", completion="b", weight=0.5),
        Document(text="a", weight=0.5),
        Tokenized(tokens=(1,), trained=(False,), weight=0.5),
    ],
)
def test_cleaned_rows_keep_their_weight(sample):
    from framework.cleaning.sample_rows import row_of

    assert row_of(sample)["loss_weight"] == 0.5


def test_settings_of_the_loss_leave_prepared_data_as_they_are(write_recipe):
    def prepared(**trainer):
        return prepare_data(resolve(write_recipe(trainer=trainer))).train.folder

    plain = prepared()
    assert prepared(label_smoothing=0.1, loss_normalisation="sequence") == plain
    assert prepared(type="distillation", teacher="some/model") != plain


# ---- noise


def logits_with_noise(alpha, *, training=True, seed=0):
    model = tiny_model("llama").train(training)
    torch.manual_seed(seed)
    with torch.no_grad():
        return CausalPolicy(model, noise_alpha=alpha).logits(weighted((LONG, 1.0), (SHORT, 1.0)))


def test_noise_is_drawn_from_the_seed_and_only_in_training():
    plain = logits_with_noise(None)
    assert not torch.allclose(logits_with_noise(5.0), plain)
    assert torch.equal(logits_with_noise(5.0), logits_with_noise(5.0))
    assert not torch.equal(logits_with_noise(5.0), logits_with_noise(5.0, seed=1))
    assert torch.equal(logits_with_noise(5.0, training=False), plain)


def test_noise_is_scaled_by_each_documents_own_length_and_leaves_nothing_behind():
    model, alpha = tiny_model("llama").train(), 5.0
    batch = weighted((LONG, 1.0), (SHORT, 1.0))
    seen = []
    embeddings = model.get_input_embeddings()
    first_layer = model.model.layers[0]
    first_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()[0]))
    CausalPolicy(model, noise_alpha=alpha).logits(batch)
    noise = seen[0] - embeddings(batch.input_ids)[0]
    for start, length in ((0, 30), (30, 9)):
        limit = alpha / (length * noise.shape[-1]) ** 0.5
        largest = noise[start : start + length].abs().max()
        # Of hundreds of uniform numbers the largest is close to the limit.
        assert 0.95 * limit < largest <= limit * (1 + 1e-4)
    assert not embeddings._forward_hooks


def test_a_run_with_noise_evaluates_without_it(write_recipe, opinionated_model_dir, tmp_path):
    data = {"train": [{"source": "./train.jsonl"}], "eval": [{"source": "./eval.jsonl"}]}
    losses = {}
    for alpha in ("null", "100"):
        output = tmp_path / f"run-{alpha}"
        # Nothing is learned, so both models are the same at the end.
        trainer = {"max_steps": 1, "learning_rate": 1e-30}
        recipe = write_recipe(
            model={"source": str(opinionated_model_dir), "dtype": "float32"},
            data=data,
            trainer=trainer,
            output={"dir": str(output)},
        )
        run(recipe, [f"+trainer.neftune_noise_alpha={alpha}"])
        trained, evaluated = read_rows(output / "metrics.jsonl")
        losses[alpha] = trained["loss"], evaluated["eval_loss"]
    assert losses["100"][1] == pytest.approx(losses["null"][1], rel=1e-6)
    assert losses["100"][0] != pytest.approx(losses["null"][0], rel=1e-3)


# ---- refusals


def test_dft_with_label_smoothing_is_refused(write_recipe):
    with pytest.raises(UserError) as caught:
        resolve(write_recipe(trainer={"loss_type": "dft", "label_smoothing": 0.1}))
    (problem,) = caught.value.problems
    assert problem.key == "trainer.label_smoothing"
    assert problem.hint == "write label_smoothing: 0, or loss_type: cross_entropy"
