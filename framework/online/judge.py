"""A folder with a reward model -> a number for prompt and answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from framework.chat.template import load_template, template_messages
from framework.core.problems import Problem, UserError
from framework.core.rollouts import Answer
from framework.core.samples import Conversation, Message
from framework.models.quiet import quiet
from framework.models.tokenizer import padding_id


class Judge:
    """Implements `rollouts.Scorer`."""

    def __init__(
        self,
        *,
        folder: Path,
        device: str,
        micro_batch_size: int,
        mean: float,
        standard_deviation: float,
    ) -> None:
        self._size, self._mean, self._deviation = micro_batch_size, mean, standard_deviation
        self._device = device
        try:
            with quiet():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
                self._model: Any = _loaded(folder)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(_unfit(folder, f"can't be loaded: {error}")) from error
        if self._model.config.num_labels != 1:
            labels = self._model.config.num_labels
            raise UserError(_unfit(folder, f"gives {labels} numbers instead of one"))
        self._template = load_template(None, self._tokenizer)
        self._pad = padding_id(self._tokenizer)
        # What is judged is the last token that is no padding.
        self._model.config.get_text_config().pad_token_id = self._pad
        self._model.eval().requires_grad_(False).to(device)

    def __call__(self, answers: Sequence[Answer]) -> Sequence[float]:
        """Of each answer, in order."""
        scores: list[float] = []
        for start in range(0, len(answers), self._size):
            rows = [self._ids(answer) for answer in answers[start : start + self._size]]
            scores += self._judged(rows)
        return [(score - self._mean) / self._deviation for score in scores]

    def _judged(self, rows: Sequence[Sequence[int]]) -> list[float]:
        longest = max(map(len, rows))
        ids = [[*row, *[self._pad] * (longest - len(row))] for row in rows]
        masks = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        with torch.no_grad():
            output = self._model(
                input_ids=torch.tensor(ids, device=self._device),
                attention_mask=torch.tensor(masks, device=self._device),
            )
        return output.logits[:, 0].float().tolist()

    def _ids(self, answer: Answer) -> list[int]:
        """Prompt and answer as its own template renders a finished conversation."""
        said = Message(role="assistant", content=answer.text)
        conversation = Conversation(messages=(*answer.prompt.messages, said))
        if self._template is None:
            texts = [message.content for message in conversation.messages]
            return self._tokenizer("\n".join(texts))["input_ids"]
        text = self._template.render(template_messages(conversation), add_generation_prompt=False)
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]


def _loaded(folder: Path) -> Any:
    """The model, every weight of it from the folder.

    Raises:
        UserError: the head is not in the folder.
    """
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    if loaded["missing_keys"]:
        missing = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise UserError(_unfit(folder, f"lacks {missing}, which would be random"))
    return model


def _unfit(folder: Path, why: str) -> Problem:
    return Problem(
        what=f"the reward model in {str(folder)!r} {why}",
        hint="write the `final` folder of a run with `trainer: {type: reward}`, or another "
        "sequence classification model with one label",
    )
