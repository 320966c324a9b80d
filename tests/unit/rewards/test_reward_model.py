"""A sequence classification model that judges answers."""

from __future__ import annotations

import pytest

from framework.core.problems import UserError
from framework.core.rollouts import Answer, Prompt
from framework.core.samples import Message
from framework.model_sources.local import Local
from framework.rewards.reward_model import RewardModel


def answers() -> list[Answer]:
    asked = (Message(role="user", content="What is the capital of France?"),)
    prompt = Prompt(identifier="t:1", tokens=(1,), messages=asked, columns={})
    texts = ("Paris", "It is Rome, as everybody knows.", "")
    return [Answer(prompt=prompt, tokens=(7,), text=text, truncated=False) for text in texts]


def test_its_number_is_that_of_plain_transformers_on_the_rendered_conversation(tiny_judge_dir):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    reward = RewardModel(source=Local(path=str(tiny_judge_dir)), micro_batch_size=2)
    found = reward.start("cpu")(answers())
    tokenizer = AutoTokenizer.from_pretrained(tiny_judge_dir)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_judge_dir, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    wanted = []
    for answer in answers():
        messages = [
            {"role": "user", "content": answer.prompt.messages[0].content},
            {"role": "assistant", "content": answer.text},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            wanted.append(float(model(input_ids=ids).logits))
    assert found == pytest.approx(wanted, abs=1e-5)
    assert len({round(one, 3) for one in found}) == 3
    scaled = RewardModel(source=reward.source, mean=1.0, standard_deviation=2.0)
    assert scaled.start("cpu")(answers()) == pytest.approx(
        [(one - 1) / 2 for one in wanted], abs=1e-5
    )


def test_a_language_model_is_no_judge(tiny_model_dir):
    with pytest.raises(UserError, match=r"lacks score.weight, which would be random"):
        RewardModel(source=Local(path=str(tiny_model_dir))).start("cpu")


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(
        UserError, match=r"trainer.rewards: source: model folder .* has no config.json"
    ):
        RewardModel(source=Local(path=str(tmp_path))).start("cpu")
