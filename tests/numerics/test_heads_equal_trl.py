"""Losses of models with a head, and their gradients, are those of TRL and PyTorch."""

from __future__ import annotations

import pytest
import torch
from conftest import write_rows
from preference_pairs import PAIRS, assert_equal, gradients_of, prompt_and_answers, tokenizer_of
from torch.nn import functional as F
from transformers import DataCollatorForTokenClassification

from framework.core.batch import Encoded, Features, read_at_end
from framework.core.heads import Head
from framework.data.prepared import prepare_data
from framework.models.collate import flat_batch
from framework.models.heads import auto_class, head_arguments, policy_of
from framework.models.load import load_weights
from framework.recipe.resolve import resolve
from framework.trainers.classifier import Classifier
from framework.trainers.process_reward import ProcessReward
from framework.trainers.regression import Regression
from framework.trainers.reward import Reward

TEXTS = tuple(document for one in PAIRS for document in one.documents)


def moved(model):
    """Every weight moved a little, the head too, the same each time."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        if model.config.num_labels:
            head = model.get_submodule("score")
            head.weight.copy_(0.3 * torch.randn(head.weight.shape))
            if head.bias is not None:
                head.bias.zero_()
    model.config.pad_token_id = 0
    return model.eval()


def ours(folder, head: Head):
    model = load_weights(folder, dtype="float32", attention="segmented_sdpa", head=head)
    return moved(model)


def plain(folder, head: Head):
    kind = auto_class(head)
    return moved(kind.from_pretrained(folder, dtype=torch.float32, **head_arguments(head)))


def mean_loss(trainer, model, samples):
    batch = flat_batch(samples, [f"t:{at}" for at in range(len(samples))])
    mean = trainer.loss(policy_of(model), None, batch).sum / trainer.num_items(batch)
    mean.backward()
    return mean.item(), gradients_of(model)


def test_a_sequence_classification_model_says_the_same_of_each_text_alone(tiny_model_dir):
    head = Head(num_outputs=3)
    batch = flat_batch(
        [Features(documents=(read_at_end(one),)) for one in TEXTS], list(map(str, range(8)))
    )
    flat = policy_of(ours(tiny_model_dir, head)).logits(batch)
    model = plain(tiny_model_dir, head)
    alone = [model(input_ids=torch.tensor([text.tokens])).logits[0] for text in TEXTS]
    torch.testing.assert_close(flat, torch.stack(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [({}, None), ({"label_smoothing": 0.2}, None), ({"class_weights": {"b": 4.0}}, [1.0, 4.0, 1])],
)
def test_classification_is_cross_entropy(settings, weights, tiny_model_dir):
    classes = [at % 3 for at in range(len(TEXTS))]
    trainer = Classifier(labels=("a", "b", "c"), **settings)
    samples = [
        Features(documents=(read_at_end(text),), numbers=(float(at),))
        for text, at in zip(TEXTS, classes, strict=True)
    ]
    found = mean_loss(trainer, ours(tiny_model_dir, trainer.head()), samples)
    model = plain(tiny_model_dir, trainer.head())
    logits = torch.cat([model(input_ids=torch.tensor([text.tokens])).logits for text in TEXTS])
    value = F.cross_entropy(
        logits,
        torch.tensor(classes),
        weight=None if weights is None else torch.tensor(weights),
        label_smoothing=settings.get("label_smoothing", 0.0),
    )
    value.backward()
    assert_equal(found, (value.item(), gradients_of(model)))


@pytest.mark.parametrize(
    ("loss_type", "theirs"),
    [
        ("squared_error", F.mse_loss),
        ("absolute_error", F.l1_loss),
        ("huber", F.huber_loss),
    ],
)
def test_regression_is_the_distance_of_pytorch(loss_type, theirs, tiny_model_dir):
    scores = [0.3 * at - 1 for at in range(len(TEXTS))]
    trainer = Regression(loss_type=loss_type)
    samples = [
        Features(documents=(read_at_end(text),), numbers=(score,))
        for text, score in zip(TEXTS, scores, strict=True)
    ]
    found = mean_loss(trainer, ours(tiny_model_dir, trainer.head()), samples)
    model = plain(tiny_model_dir, trainer.head())
    predicted = torch.cat([model(input_ids=torch.tensor([text.tokens])).logits for text in TEXTS])
    value = theirs(predicted[:, 0], torch.tensor(scores))
    value.backward()
    assert_equal(found, (value.item(), gradients_of(model)))


@pytest.mark.parametrize("centering", [0.0, 0.1])
@pytest.mark.parametrize("margins", [None, (0.5, 1.0, 0.0, 2.0)])
def test_the_reward_loss_is_that_of_trl(centering, margins, tiny_model_dir, tmp_path):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    trainer = Reward(
        center_rewards_coefficient=centering, margin_weight=0.0 if margins is None else 1.0
    )
    samples = [
        Features(
            documents=tuple(map(read_at_end, one.documents)),
            numbers=() if margins is None else (margins[at],),
        )
        for at, one in enumerate(PAIRS)
    ]
    found = mean_loss(trainer, ours(tiny_model_dir, trainer.head()), samples)
    model = plain(tiny_model_dir, trainer.head())
    theirs = RewardTrainer(
        model=model,
        args=RewardConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to="none",
            gradient_checkpointing=False,
            center_rewards_coefficient=centering or None,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=tokenizer_of(tiny_model_dir),
    )
    rows = []
    for at, one in enumerate(PAIRS):
        (prompt, chosen), (_, rejected) = prompt_and_answers(one)
        row = {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
        rows.append(row if margins is None else {**row, "margin": margins[at]})
    value = theirs.compute_loss(theirs.model, theirs.data_collator(rows))
    value.backward()
    assert_equal(found, (value.item(), gradients_of(model)))


STEPWISE = [
    {"prompt": "What is 2 + 3 * 4?", "completions": ["3 * 4 is 12.", "2 + 12 is 14."]},
    {"prompt": "Go.", "completions": ["left"]},
    {"prompt": "And the capital of Spain?", "completions": ["It is", "in Norway:", "Oslo", "."]},
]
LABELS = [[True, True], [False], [True, False, False, True]]


def test_the_process_reward_loss_is_that_of_a_token_classification_model(
    write_recipe, tiny_model_dir, tmp_path
):
    """The labels stand at the last tokens of the steps; rows are padded as transformers does."""
    rows = [{**row, "labels": labels} for row, labels in zip(STEPWISE, LABELS, strict=True)]
    write_rows(tmp_path / "steps.jsonl", rows)
    recipe = write_recipe(
        data={"train": [{"source": "./steps.jsonl", "format": "stepwise"}]},
        trainer={"type": "process_reward"},
    )
    store = prepare_data(resolve(recipe)).train
    samples = [store.features(at) for at in range(len(rows))]
    trainer = ProcessReward()
    found = mean_loss(trainer, ours(tiny_model_dir, trainer.head()), samples)

    tokenizer = tokenizer_of(tiny_model_dir)
    read: list[dict[str, list[int]]] = []
    for row in rows:
        said = [{"role": "user", "content": row["prompt"]}]
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text)["input_ids"]
        labels = [-100] * len(ids)
        for step, label in zip(row["completions"], row["labels"], strict=True):
            tokens = tokenizer(step + "\n")["input_ids"]
            ids = ids + tokens
            labels = [*labels, *[-100] * (len(tokens) - 1), int(label)]
        read.append({"input_ids": ids, "labels": labels})
    batch = DataCollatorForTokenClassification(tokenizer)(read)
    assert 0 in batch["attention_mask"]
    model = plain(tiny_model_dir, trainer.head())
    value = model(**batch).loss
    value.backward()
    assert_equal(found, (value.item(), gradients_of(model)))


def test_soft_labels_of_steps_are_mixed(tiny_model_dir):
    trainer = ProcessReward()
    steps = Encoded(tokens=(5, 6, 7), trained=(False, False, True))

    def loss(label: float) -> float:
        model = ours(tiny_model_dir, trainer.head())
        return mean_loss(trainer, model, [Features(documents=(steps,), numbers=(label,))])[0]

    assert loss(0.25) == pytest.approx(0.25 * loss(1.0) + 0.75 * loss(0.0), rel=1e-6)
