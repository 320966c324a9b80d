"""Preference trainers: what they refuse, what they make of a row, and batches without any."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from architectures import tiny_model
from chat_families import CHATML, byte_level_tokenizer, encoder
from conftest import write_rows
from preference_pairs import PAIRS, batch_of_pairs, moved, prompt_and_answers

from framework.core.batch import Batch, Features
from framework.core.problems import UserError
from framework.core.samples import Message, Preference, RowError
from framework.engine.reference import FrozenPolicy
from framework.models.collate import flat_batch
from framework.models.mismatched import mismatched
from framework.models.policy import CausalPolicy
from framework.recipe.resolve import resolve
from framework.train import run
from framework.trainers.cpo import CPO
from framework.trainers.dpo import DPO
from framework.trainers.kto import KTO
from framework.trainers.orpo import ORPO
from framework.trainers.simpo import SimPO

RATED = tuple(
    Features(documents=(document,), numbers=(float(good),))
    for one in PAIRS
    for document, good in zip(one.documents, (True, False), strict=True)
)
TRAINERS = {
    "dpo": DPO(ld_alpha=0.5, rpo_alpha=0.2, margin_weight=1.0),
    "orpo": ORPO(),
    "simpo": SimPO(margin_weight=1.0, cpo_alpha=0.1),
    "cpo": CPO(),
    "kto": KTO(),
}


def batch_for(name: str, size: int) -> Batch:
    if name == "kto":
        samples = RATED
    else:
        samples = tuple(Features(documents=one.documents, numbers=(0.5,)) for one in PAIRS)
    return flat_batch(samples[:size], [f"t:{number}" for number in range(size)])


@pytest.fixture(scope="module")
def policies():
    model = tiny_model("llama")
    return CausalPolicy(moved(model, 1)), FrozenPolicy(tiny_model("llama"), None)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_batch_without_samples_is_zero_and_takes_part(policies, name):
    policy, reference = policies
    policy.model.zero_grad()
    trainer = TRAINERS[name]
    empty, some = batch_for(name, 0), batch_for(name, 2)
    assert trainer.num_items(empty) == 0
    loss = trainer.loss(policy, reference, empty)
    loss.sum.backward()
    assert loss.sum.item() == 0
    assert all(not p.grad.any() for p in policy.model.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in policy.model.parameters())
    assert loss.metrics.keys() == trainer.loss(policy, reference, some).metrics.keys()
    assert all(value.item() == 0 for value in loss.metrics.values())


@pytest.mark.parametrize("name", ["dpo", "orpo", "simpo", "cpo"])
def test_a_batch_is_the_sum_of_its_pairs(policies, name):
    policy, reference = policies
    trainer = TRAINERS[name]
    whole = trainer.loss(policy, reference, batch_for(name, 4)).sum.item()
    pairs = [Features(documents=one.documents, numbers=(0.5,)) for one in PAIRS]
    each = [trainer.loss(policy, reference, flat_batch([one], ["t:0"])).sum for one in pairs]
    assert whole == pytest.approx(sum(one.item() for one in each), rel=1e-5)


def test_metrics_say_which_answer_the_model_prefers(policies):
    policy, reference = policies
    batch = batch_of_pairs()
    metrics = DPO(beta=0.3).loss(policy, reference, batch).metrics
    with torch.no_grad():
        ratios = reference.negative_log_likelihood(batch) - policy.negative_log_likelihood(batch)
    sums = torch.stack([ratios[batch.label_documents == d].sum() for d in range(8)]).view(4, 2)
    chosen, rejected = 0.3 * sums.T
    assert metrics["chosen_reward"] == pytest.approx(chosen.sum().item(), abs=1e-5)
    assert metrics["rejected_reward"] == pytest.approx(rejected.sum().item(), abs=1e-5)
    assert metrics["reward_margin"] == pytest.approx((chosen - rejected).sum().item(), abs=1e-5)
    assert metrics["reward_accuracy"] == (chosen > rejected).sum()
    assert 0 < metrics["reward_accuracy"] < 4


def test_the_metrics_of_a_mixture_have_each_part(policies):
    trainer = DPO(loss_type={"sigmoid": 0.8, "bco": 0.2}, rpo_alpha=0.1)
    loss = trainer.loss(*policies, batch_of_pairs())
    parts = [loss.metrics[name] for name in ("sigmoid_loss", "bco_loss", "sft_loss")]
    assert sum(parts) == pytest.approx(loss.sum.item(), rel=1e-6)


@pytest.mark.parametrize(("trainer", "wanted"), [(DPO, 0.7), (SimPO, 0.7)], ids=["dpo", "simpo"])
def test_a_larger_margin_is_a_larger_loss_by_the_papers_equation(policies, trainer, wanted):
    """-log sigma(d - weight margin), on one pair."""
    policy, reference = policies
    one = Features(documents=PAIRS[0].documents, numbers=(wanted,))
    batch = flat_batch([one], ["t:0"])
    plain = trainer().loss(policy, reference, batch).sum
    difference = -torch.log(torch.expm1(plain))  # of -log sigma(d) = log(1 + exp(-d))
    expected = -torch.nn.functional.logsigmoid(difference - 2 * wanted)
    found = trainer(margin_weight=2.0).loss(policy, reference, batch).sum
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_smoothing_of_dpo_is_the_papers_equation(policies):
    """-(1 - e) log sigma(d) - e log sigma(-d), which TRL's `sigmoid` does not have."""
    batch = flat_batch(PAIRS[:1], ["t:0"])
    plain = DPO().loss(*policies, batch).sum
    flipped = plain - torch.log(torch.expm1(plain))  # -log sigma(-d) = -log sigma(d) + d
    found = DPO(label_smoothing=0.2).loss(*policies, batch).sum
    assert found.item() == pytest.approx((0.8 * plain + 0.2 * flipped).item(), rel=1e-5)


@pytest.mark.parametrize("trainer", [DPO(margin_weight=1.0), SimPO(margin_weight=1.0)])
def test_a_row_without_the_margin_that_is_needed_is_refused(trainer):
    chat = encoder(byte_level_tokenizer(CHATML, "<|im_end|>"), "chatml")
    asked, *answers = (
        Message(role=role, content=text)
        for role, text in (("user", "Hi?"), ("assistant", "Yes."), ("assistant", "No."))
    )
    pair = Preference(messages=(asked,), chosen=(answers[0],), rejected=(answers[1],))
    with pytest.raises(RowError, match="no 'margin'"):
        trainer.features(pair, chat)
    (features,) = trainer.features(
        Preference(messages=(asked,), chosen=(answers[0],), rejected=(answers[1],), margin=0.25),
        chat,
    )
    assert features.numbers == (0.25,)


# ---- the estimate of KTO


def test_every_prompt_gets_the_answer_before_it_and_the_first_the_last():
    batch = flat_batch(RATED[:3], ["a", "b", "c"])
    before = [prompt_and_answers(one)[0] for one in RATED[:3]]
    others = mismatched(batch, None)
    ends = others.boundaries.tolist()
    found = [others.input_ids[0, a:b].tolist() for a, b in itertools.pairwise(ends)]
    assert found == [before[at][0] + before[at - 1][1] for at in range(3)]
    counts = torch.bincount(others.label_documents).tolist()
    assert counts == [len(before[at - 1][1]) for at in range(3)]


def test_mismatched_documents_have_no_more_tokens_than_the_model_has_positions():
    batch = flat_batch(RATED[:3], ["a", "b", "c"])
    assert mismatched(batch, None).max_document_length > 9
    assert mismatched(batch, 9).max_document_length == 9
    assert CausalPolicy(tiny_model("llama")).num_positions == 128


def test_the_estimate_is_the_mean_over_mismatched_answers_and_is_logged_for_each(policies):
    policy, reference = policies
    batch = flat_batch(RATED[:3], ["a", "b", "c"])
    others = mismatched(batch, None)
    with torch.no_grad():
        gone = reference.negative_log_likelihood(others) - policy.negative_log_likelihood(others)
    wanted = max(gone.sum().item() / 3, 0.0)
    logged = KTO().loss(policy, reference, batch).metrics["kl"].item()
    assert wanted > 0.01
    assert logged == pytest.approx(3 * wanted, rel=1e-4)


def test_an_answer_that_is_alone_is_not_compared_with_itself(policies):
    policy, reference = policies
    seen: list[float] = []
    for one, sign in zip(RATED, itertools.cycle((1, -1))):  # good and bad answers in turn
        found = KTO().loss(policy, reference, flat_batch([one], ["a"]))
        margin = found.metrics["reward_margin"].item()
        assert found.metrics["kl"].item() == 0
        assert found.sum.item() == pytest.approx(1 / (1 + math.exp(margin)), rel=1e-5)
        seen.append(sign * margin)
    # Where it is more likely than it was, it would be an estimate of its own.
    assert max(seen) > 0.001, seen


def test_samples_that_are_left_alone_are_said(pairs_recipe, tmp_path):
    """16 answers are 2 batches of 6, and one of 3 and 1."""
    trainer = {"type": "kto", "global_batch_size": 6, "micro_batch_size": 3, "max_steps": 1}
    says = "the last sample of each epoch is alone in its micro-batch of 3: compared with"
    run(pairs_recipe(trainer, rated=True))
    assert says in (tmp_path / "run" / "log.txt").read_text()
    other = [f"output.dir={tmp_path / 'other'}", "+trainer.loss_type=apo_zero_unpaired"]
    run(pairs_recipe(trainer, rated=True), other)
    assert "is alone" not in (tmp_path / "other" / "log.txt").read_text()


def test_weights_of_kto_are_those_of_each_kind(policies):
    good = flat_batch(RATED[::2], ["a", "b", "c", "d"])
    plain = KTO(loss_type="apo_zero_unpaired").loss(*policies, good).sum.item()
    twice = KTO(loss_type="apo_zero_unpaired", desirable_weight=2.0, undesirable_weight=9.0)
    assert twice.loss(*policies, good).sum.item() == pytest.approx(2 * plain, rel=1e-6)


# ---- recipes


@pytest.fixture
def pairs_recipe(write_recipe, tmp_path):
    """Writes a recipe that learns from pairs, or from rated answers with `rated=True`."""
    pairs = [
        {"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No idea."}
        for n in range(8)
    ]
    rated = [
        {"prompt": one["prompt"], "completion": one[side], "label": side == "chosen"}
        for one in pairs
        for side in ("chosen", "rejected")
    ]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    write_rows(tmp_path / "rated.jsonl", rated)

    def write(trainer, *, rated=False, **sections):
        source, format_ = ("rated", "unpaired_preference") if rated else ("pairs", "preference")
        data = {
            "train": [{"source": f"./{source}.jsonl", "format": format_}],
            "packing": False,
            **sections.pop("data", {}),
        }
        return write_recipe(trainer=trainer, data=data, **sections)

    return write


REFUSED = {
    "an unknown loss in a mixture": ({"type": "dpo", "loss_type": {"sigmod": 1.0}}, {}, "sigmod"),
    "a weight of nothing": ({"type": "dpo", "loss_type": {"sigmoid": 0}}, {}, "must be above 0"),
    "no loss": ({"type": "dpo", "loss_type": {}}, {}, "names no loss"),
    "smoothing without effect": (
        {"type": "dpo", "loss_type": "hinge", "label_smoothing": 0.1},
        {},
        "changes none of the losses",
    ),
    "exo without smoothing": ({"type": "dpo", "loss_type": "exo"}, {}, "must be above 0 for `exo`"),
    "a margin without effect": (
        {"type": "dpo", "loss_type": "ipo", "margin_weight": 1.0},
        {},
        "changes none of the losses",
    ),
    "sorting one pair": (
        {"type": "dpo", "loss_type": "aot", "micro_batch_size": 1},
        {},
        "sorts the pairs of a micro-batch, and there is one",
    ),
    "sorting who knows how many": (
        {"type": "dpo", "loss_type": "aot", "micro_batch_size": "auto"},
        {},
        "`auto` doesn't say how many there are",
    ),
    "packing": ({"type": "dpo"}, {"data": {"packing": True}}, "can't pack"),
    "other roles": ({"type": "dpo"}, {"data": {"train_on": ["user"]}}, "data.train_on"),
    "eager attention": ({"type": "dpo"}, {"model": {"attention": "eager"}}, "a pair of answers"),
    "a stream": (
        {"type": "dpo", "precompute_reference": True},
        {"data": {"streaming": {}}, "checkpoint": {"every_steps": 1}},
        "a stream is never read as a whole",
    ),
    "weights that an adapter changes": (
        {"type": "dpo"},
        {"adapter": {"type": "lora", "r": 2, "init_lora_weights": "pissa"}},
        "switched off it is no reference",
    ),
    "an answer cut at the right": (
        {"type": "dpo"},
        {"data": {"over_length": "truncate"}},
        "write side: left",
    ),
    "windows": ({"type": "dpo"}, {"data": {"over_length": "windows"}}, "without their prompts"),
    "split": ({"type": "dpo"}, {"data": {"over_length": "split"}}, "without their prompts"),
    "smoothed hinge": (
        {"type": "simpo", "loss_type": "hinge", "label_smoothing": 0.1},
        {},
        "changes nothing in `hinge`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_work_is_refused_by_check(pairs_recipe, name):
    trainer, sections, what = REFUSED[name]
    with pytest.raises(UserError) as caught:
        resolve(pairs_recipe(trainer, **sections))
    assert len(caught.value.problems) == 1, caught.value.problems
    assert what in str(caught.value)
    assert caught.value.problems[0].hint


@pytest.mark.parametrize(
    ("trainer", "what"),
    [
        ({"type": "kto", "micro_batch_size": 1}, "here is one answer"),
        ({"type": "kto", "micro_batch_size": "auto"}, "`auto` doesn't say how many they are"),
        (
            {"type": "kto", "micro_batch_size": 2, "precompute_reference": True},
            "answers to other prompts",
        ),
    ],
)
def test_kto_is_refused_where_nothing_can_be_estimated(pairs_recipe, trainer, what):
    with pytest.raises(UserError, match=what):
        resolve(pairs_recipe(trainer, rated=True))


def test_weights_that_an_adapter_changes_are_no_matter_when_the_reference_is_asked_before(
    pairs_recipe,
):
    lora = {"type": "lora", "r": 2, "init_lora_weights": "pissa"}
    assert resolve(pairs_recipe({"type": "dpo", "precompute_reference": True}, adapter=lora))


def test_losses_of_the_trainer_are_those_that_there_are():
    from typing import get_args

    from framework.losses.preference import PREFERENCE_LOSSES
    from framework.trainers.dpo import LossType

    assert get_args(LossType) == tuple(PREFERENCE_LOSSES)
