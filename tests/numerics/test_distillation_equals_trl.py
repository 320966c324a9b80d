"""Divergences between student and teacher are those of TRL and of their definitions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from architectures import VOCABULARY, batch_of, document, tiny_model
from torch.nn import functional as F
from trl.experimental.gkd.gkd_trainer import GKDTrainer

from framework.engine.kept_teacher import KeptTeacher, keep
from framework.losses import cross_entropy
from framework.losses.divergence import (
    Distillation,
    distillation_losses,
    top_distillation_losses,
    top_tokens,
)
from framework.models.policy import CausalPolicy
from framework.trainers import distillation

TOLERANCE = 1e-5  # float32, chunked against whole: sums run in another order
KINDS = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.3}
"""Divergence -> what TRL calls its beta."""
ROWS = 10


def objective(kind="forward_kl", temperature=1.0, alpha=1.0):
    return Distillation(
        divergence=kind, beta=KINDS[kind] or 0.5, temperature=temperature, alpha=alpha
    )


@pytest.fixture(autouse=True)
def three_rows_at_a_time(monkeypatch):
    """So that the last chunk is not full."""
    monkeypatch.setattr(cross_entropy, "LOGITS_CHUNK_ELEMENTS", 3 * VOCABULARY)


@pytest.fixture
def logits():
    """(Student's, teacher's, labels)."""
    torch.manual_seed(0)
    student = (2 * torch.randn(ROWS, VOCABULARY)).requires_grad_()
    return student, 2 * torch.randn(ROWS, VOCABULARY), torch.randint(VOCABULARY, (ROWS,))


def gradient(loss, student):
    return torch.autograd.grad(loss, student)[0]


def assert_close(found, expected):
    assert (found - expected).norm() <= TOLERANCE * expected.norm()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("kind", KINDS)
def test_divergence_and_gradient_are_those_of_trl(logits, kind, temperature):
    student, teacher, labels = logits
    expected = GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], labels[None], KINDS[kind], temperature
    )
    expected_gradient = gradient(expected, student)
    losses = distillation_losses(student, labels, teacher, objective(kind, temperature))
    assert losses.loss.mean().item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert torch.equal(losses.divergence, losses.loss)
    assert_close(gradient(losses.loss.mean(), student), expected_gradient)


def by_definition(student, teacher, kind):
    p, q = student.softmax(-1), teacher.softmax(-1)
    if kind == "forward_kl":
        return (q * (q / p).log()).sum(-1)
    if kind == "reverse_kl":
        return (p * (p / q).log()).sum(-1)
    m = 0.3 * q + 0.7 * p
    return 0.3 * (q * (q / m).log()).sum(-1) + 0.7 * (p * (p / m).log()).sum(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mix_with_cross_entropy_is_what_its_definition_says(logits, kind):
    student, teacher, labels = logits
    temperature, alpha, weights = 1.5, 0.3, torch.rand(ROWS)
    divergence = by_definition(student.double() / temperature, teacher.double() / temperature, kind)
    plain = F.cross_entropy(student.double(), labels, reduction="none")
    expected = alpha * divergence + (1 - alpha) * plain
    losses = distillation_losses(
        student, labels, teacher.clone(), objective(kind, temperature, alpha)
    )
    assert_close(losses.loss, expected)
    assert_close(losses.divergence, divergence)
    assert_close(losses.cross_entropy, plain)
    expected_gradient = gradient((expected * weights).sum(), student)
    assert_close(gradient((losses.loss * weights).sum(), student), expected_gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokens_known_beforehand_are_the_teacher_itself(logits, kind):
    student, teacher, labels = logits
    asked = top_tokens(teacher, VOCABULARY, 1.5, VOCABULARY)
    assert asked.log_probabilities.shape == (ROWS, VOCABULARY)
    known = top_distillation_losses(student, labels, asked, objective(kind, 1.5, 0.5))
    whole = distillation_losses(student, labels, teacher.clone(), objective(kind, 1.5, 0.5))
    assert_close(known.loss, whole.loss)
    assert_close(gradient(known.loss.sum(), student), gradient(whole.loss.sum(), student))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_are_not_known_are_compared_as_one(logits, kind):
    student, teacher, labels = logits
    count = 5
    asked = top_tokens(teacher, count, 1.0, VOCABULARY)

    def binned(values):
        chosen = values.gather(-1, asked.ids)
        rest = values.scatter(-1, asked.ids, 0.0).sum(-1, keepdim=True)
        return torch.cat([chosen, rest], -1).log()

    p, q = binned(student.double().softmax(-1)), binned(teacher.double().softmax(-1))
    assert_close(asked.log_probabilities, q)
    # Logarithms of a distribution are logits of it.
    expected = by_definition(p, q, kind)
    losses = top_distillation_losses(student, labels, asked, objective(kind))
    assert_close(losses.divergence, expected)
    assert_close(gradient(losses.loss.sum(), student), gradient(expected.sum(), student))
    whole = distillation_losses(student, labels, teacher, objective(kind)).divergence
    assert (losses.divergence < whole).all()


def test_the_gradient_takes_the_place_of_the_teachers_logits_and_the_students_stay(logits):
    student, teacher, labels = logits
    before = student.detach().clone()
    untouched = teacher.clone()
    losses = distillation_losses(student, labels, teacher, objective())
    found = gradient(losses.loss.sum(), student)
    assert torch.equal(student, before)
    assert torch.equal(teacher, found)
    assert not torch.allclose(teacher, untouched)


def test_columns_that_only_one_of_the_two_has_are_left_out(logits):
    student, teacher, labels = logits
    padded = torch.cat([teacher, torch.full((ROWS, 3), 5.0)], -1)
    expected = distillation_losses(student, labels, teacher.clone(), objective(alpha=0.5))
    expected_gradient = gradient(expected.loss.sum(), student)
    wide_teacher = distillation_losses(student, labels, padded, objective(alpha=0.5))
    assert_close(wide_teacher.loss, expected.loss)
    assert_close(gradient(wide_teacher.loss.sum(), student), expected_gradient)

    wide = torch.cat([student.detach(), torch.full((ROWS, 3), 1.0)], -1).requires_grad_()
    wide_student = distillation_losses(wide, labels, teacher.clone(), objective())
    assert_close(wide_student.divergence, expected.divergence)
    found = gradient(wide_student.loss.sum(), wide)
    assert not found[:, VOCABULARY:].any()


def test_16_bit_logits_give_float32_losses_and_16_bit_gradients(logits):
    student, teacher, labels = logits
    rounded = student.detach().bfloat16().requires_grad_()
    losses = distillation_losses(rounded, labels, teacher.bfloat16(), objective("jsd", 1.0, 0.5))
    exact = distillation_losses(
        rounded.float(), labels, teacher.bfloat16().float(), objective("jsd", 1.0, 0.5)
    )
    assert losses.loss.dtype == torch.float32
    assert torch.allclose(losses.loss, exact.loss, rtol=TOLERANCE)
    found = gradient(losses.loss.sum(), rounded)
    expected = gradient(exact.loss.sum(), rounded)
    # bfloat16 keeps 8 bits.
    assert torch.allclose(found, expected, rtol=2**-7)


# ---- the trainer on models


class Source:
    """Where a teacher would come from; these tests hold the model themselves."""


BATCH = batch_of(document(23, seed=1, num_prompt_tokens=5), document(40, seed=3))


def model_gradients(trainer, teacher):
    model = tiny_model("llama")
    loss = trainer.loss(CausalPolicy(model), teacher, BATCH)
    (loss.sum / trainer.num_items(BATCH)).backward()
    return loss, {name: parameter.grad for name, parameter in model.named_parameters()}


def test_a_kept_teacher_of_the_whole_vocabulary_trains_as_the_teacher_does(tmp_path):
    teacher = CausalPolicy(tiny_model("qwen2").requires_grad_(False).eval())
    online = distillation.Distillation(teacher=Source(), divergence="jsd", temperature=2.0)
    with torch.no_grad():
        keep(
            tmp_path,
            [BATCH],
            lambda batch: top_tokens(teacher.logits(batch), VOCABULARY, 2.0, VOCABULARY),
        )
    offline = replace(online, top_k=VOCABULARY)
    expected, gradients = model_gradients(online, teacher)
    found, kept_gradients = model_gradients(offline, KeptTeacher([tmp_path]))
    assert found.sum.item() == pytest.approx(expected.sum.item(), rel=TOLERANCE)
    for name, one in gradients.items():
        assert_close(kept_gradients[name], one)


def test_a_student_beside_itself_has_nothing_to_learn():
    teacher = CausalPolicy(tiny_model("llama").requires_grad_(False).eval())
    loss, gradients = model_gradients(distillation.Distillation(teacher=Source()), teacher)
    assert abs(loss.sum.item()) < 1e-5
    assert max(one.abs().max() for one in gradients.values()) < 1e-5
