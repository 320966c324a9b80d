"""Losses of preferences and their gradients are those of TRL's trainers on the same batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from preference_pairs import (
    PAIRS,
    Gradients,
    assert_equal,
    batch_of_pairs,
    gradients_of,
    our_loss,
    our_metrics,
    pair,
    plain_models,
    prompt_and_answers,
    tokenizer_of,
)

from framework.core.batch import Features
from framework.losses.preference import PREFERENCE_LOSSES
from framework.models.collate import flat_batch
from framework.trainers.cpo import CPO
from framework.trainers.dpo import DPO
from framework.trainers.kto import KTO
from framework.trainers.orpo import ORPO
from framework.trainers.simpo import SimPO

BETA = 0.3


def arguments(tmp_path, **settings: Any) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path / "trl"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": len(PAIRS),
        "report_to": "none",
        "max_length": None,
        **settings,
    }


# ---- DPO


@pytest.fixture(scope="module")
def trl_dpo(tiny_model_dir, tmp_path_factory):
    """What TRL's trainer makes of pairs with these attributes; building one takes seconds."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference = plain_models(tiny_model_dir)
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=DPOConfig(**arguments(tmp_path_factory.mktemp("dpo"), beta=BETA)),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=tokenizer_of(tiny_model_dir),
    )
    usual = dict(vars(trainer))

    def loss(
        pairs=PAIRS, dtype: torch.dtype = torch.float32, **attributes: Any
    ) -> tuple[float, Gradients]:
        vars(trainer).update(usual | {"loss_weights": [1.0]} | attributes)
        for model in (policy, reference):
            model.to(dtype)
        rows = []
        for one in pairs:
            (prompt, chosen), (_, rejected) = prompt_and_answers(one)
            rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
        policy.zero_grad()
        value = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
        value.backward()
        return value.item(), gradients_of(policy)

    return loss


NAMES_OF_TRL = {"exo": "exo_pair", "nca": "nca_pair", "bco": "bco_pair", "sppo": "sppo_hard"}
SMOOTHING = {"robust": 0.1, "exo": 0.01, "aot": 0.1, "aot_unpaired": 0.1}
SHARP = ("discopop",)
"""Losses that divide by 0.05, and so make rounding in float32 twenty times as large."""


def of_trl(name: str) -> str:
    return NAMES_OF_TRL.get(name, name)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_every_loss_of_dpo_equals_that_of_trl(tiny_model_dir, trl_dpo, name):
    smoothing = SMOOTHING.get(name, 0.0)
    dtype = torch.float64 if name in SHARP else torch.float32
    ours = DPO(loss_type=name, beta=BETA, label_smoothing=smoothing)
    assert_equal(
        our_loss(ours, tiny_model_dir, batch_of_pairs(), dtype),
        trl_dpo(loss_types=[of_trl(name)], label_smoothing=smoothing, dtype=dtype),
    )


@pytest.mark.parametrize("ld_alpha", [0.0, 0.4])
def test_less_weight_beyond_the_shorter_answer_equals_that_of_trl(
    tiny_model_dir, trl_dpo, ld_alpha
):
    ours = DPO(beta=BETA, ld_alpha=ld_alpha)
    assert_equal(
        our_loss(ours, tiny_model_dir, batch_of_pairs()),
        trl_dpo(loss_types=["sigmoid"], ld_alpha=ld_alpha),
    )


def test_a_mixture_of_losses_equals_that_of_trl(tiny_model_dir, trl_dpo):
    ours = DPO(loss_type={"sigmoid": 0.8, "bco": 0.2, "hinge": 1.5}, beta=BETA)
    assert_equal(
        our_loss(ours, tiny_model_dir, batch_of_pairs()),
        trl_dpo(loss_types=["sigmoid", "bco_pair", "hinge"], loss_weights=[0.8, 0.2, 1.5]),
    )


def test_the_supervised_part_is_the_mean_over_pairs_of_that_of_trl(tiny_model_dir, trl_dpo):
    """TRL takes one mean over the tokens of all pairs of a micro-batch; that depends on how pairs
    are dealt to micro-batches, so ours is RPO's own, which is TRL's of each pair alone."""
    ours = our_loss(DPO(beta=BETA, rpo_alpha=0.7), tiny_model_dir, batch_of_pairs())
    each = []
    for one in PAIRS:
        loss, gradients = trl_dpo([one], loss_types=["sigmoid", "sft"], loss_weights=[1.0, 0.7])
        each.append((loss, {name: part.clone() for name, part in gradients.items()}))
    assert_equal(ours, mean_of(each))


# ---- without a reference


def trl_reference_free(kind: str, model_dir, folder, **settings: Any):
    """What TRL's ORPO or CPO trainer makes of each pair alone, in the mean.

    Its supervised part is one mean over the tokens of a micro-batch, ours is one of each pair's.
    """
    import torch
    from datasets import Dataset
    from trl.experimental import cpo, orpo

    config, trainer_class = {
        "orpo": (orpo.ORPOConfig, orpo.ORPOTrainer),
        "cpo": (cpo.CPOConfig, cpo.CPOTrainer),
    }[kind]
    policy, _ = plain_models(model_dir)
    given = arguments(folder, beta=BETA, remove_unused_columns=False, **settings)
    trainer = trainer_class(
        model=policy,
        args=config(**given | {"max_length": 64}),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=tokenizer_of(model_dir),
    )

    def loss(pairs) -> tuple[float, Gradients]:
        each = []
        for one in pairs:
            batch: dict[str, Any] = {}
            for side, (prompt, answer) in zip(
                ("chosen", "rejected"), prompt_and_answers(one), strict=True
            ):
                ids = torch.tensor([prompt + answer])
                batch[f"{side}_input_ids"] = ids
                batch[f"{side}_attention_mask"] = torch.ones_like(ids)
                batch[f"{side}_labels"] = torch.tensor([[-100] * len(prompt) + answer])
            policy.zero_grad()
            value = trainer.compute_loss(policy, batch)
            value.backward()
            gradients = {name: part.clone() for name, part in gradients_of(policy).items()}
            each.append((value.item(), gradients))
        return mean_of(each)

    return loss


ASKED_BY_ONE_TOKEN = (pair(1, 1, 4, 9), pair(2, 1, 8, 2), pair(3, 1, 6, 6))
"""TRL's ORPO trains the prompt too, after its first token; ours, as the paper, the answer alone."""


def test_orpo_equals_that_of_trl(tiny_model_dir, tmp_path):
    theirs = trl_reference_free("orpo", tiny_model_dir, tmp_path)(ASKED_BY_ONE_TOKEN)
    ours = our_loss(ORPO(beta=BETA), tiny_model_dir, batch_of_pairs(ASKED_BY_ONE_TOKEN))
    assert_equal(ours, theirs)


CPO_LIKE = {
    "cpo": (CPO(beta=BETA, cpo_alpha=0.7), {"cpo_alpha": 0.7}),
    "cpo, hinge": (CPO(beta=BETA, loss_type="hinge"), {"loss_type": "hinge"}),
    "cpo, ipo": (CPO(beta=BETA, loss_type="ipo"), {"loss_type": "ipo"}),
    "cpo, smoothed": (CPO(beta=BETA, label_smoothing=0.2), {"label_smoothing": 0.2}),
    "simpo": (
        SimPO(beta=BETA, gamma=0.4),
        {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.4},
    ),
    "cpo-simpo": (
        SimPO(beta=BETA, gamma=0.4, cpo_alpha=0.3, label_smoothing=0.1),
        {"loss_type": "simpo", "cpo_alpha": 0.3, "simpo_gamma": 0.4, "label_smoothing": 0.1},
    ),
}


@pytest.mark.parametrize("name", CPO_LIKE)
def test_cpo_and_simpo_equal_those_of_trl(tiny_model_dir, tmp_path, name):
    ours, settings = CPO_LIKE[name]
    theirs = trl_reference_free("cpo", tiny_model_dir, tmp_path, **settings)(PAIRS)
    assert_equal(our_loss(ours, tiny_model_dir, batch_of_pairs()), theirs)


# ---- KTO


RATED = [
    Features(documents=(document,), numbers=(float(good),))
    for one in PAIRS
    for document, good in zip(one.documents, (True, False), strict=True)
][:-1]


def trl_kto(model_dir, folder, loss_type: str, **settings: Any) -> tuple[float, Gradients]:
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    policy, reference = plain_models(model_dir)
    given = arguments(folder, beta=BETA, loss_type=loss_type, **settings)
    trainer = KTOTrainer(
        model=policy,
        ref_model=reference,
        args=KTOConfig(**given),
        train_dataset=Dataset.from_list(
            [{"prompt": "a", "completion": "b", "label": good} for good in (True, False)]
        ),
        processing_class=tokenizer_of(model_dir),
    )
    rows: list[dict[str, Any]] = []
    for one in RATED:
        ((prompt, answer),) = prompt_and_answers(one)
        rows.append({"prompt_ids": prompt, "completion_ids": answer, "label": bool(one.numbers[0])})
    if loss_type == "kto":
        for row, before in zip(rows, [rows[-1], *rows[:-1]], strict=True):
            row["KL_completion_ids"] = before["completion_ids"]
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    loss.backward()
    return loss.item(), gradients_of(policy)


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_kto_equals_that_of_trl(tiny_model_dir, tmp_path, loss_type):
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.6}
    ours = KTO(beta=BETA, loss_type=loss_type, **weights)
    batch = flat_batch(RATED, [f"t:{number}" for number in range(len(RATED))])
    assert_equal(
        our_loss(ours, tiny_model_dir, batch),
        trl_kto(tiny_model_dir, tmp_path, loss_type, **weights),
    )
    kl = our_metrics(ours, tiny_model_dir, batch)["kl"]
    assert kl > 0.01 if loss_type == "kto" else kl == 0, "else the estimate is not compared"


def mean_of(each: list[tuple[float, Gradients]]) -> tuple[float, Gradients]:
    names = each[0][1]
    gradients = {name: sum(one[1][name] for one in each) / len(each) for name in names}
    return sum(one[0] for one in each) / len(each), gradients
