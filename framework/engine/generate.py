"""Held-out samples -> the model's greedy answers, shared among the processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from framework.chat.encoder import ChatEncoder
from framework.core.samples import Sample
from framework.models.precision import autocast
from framework.models.tokenizer import padding_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

_PROMPTS_PER_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class TextGenerator:
    """Greedy decoding; implements `protocols.Generator`."""

    accelerator: Accelerator
    model: Any
    """The unwrapped model, an adapter included."""
    tokenizer: PreTrainedTokenizerBase
    chat: ChatEncoder
    end_token_ids: frozenset[int]
    max_new_tokens: int
    autocast_dtype: str | None

    def __call__(self, samples: Sequence[Sample]) -> list[str]:
        """One answer for each sample, in order; every process gets all of them."""
        from accelerate.utils import gather_object

        size, rank = self.accelerator.num_processes, self.accelerator.process_index
        mine = range(rank, len(samples), size)
        prompts = [self.chat.prompt(samples[index]) for index in mine]
        # Prompts of like length share a batch, so that little of it is padding.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers = [""] * len(prompts)
        with _ready_to_generate(self.model), autocast(self.accelerator.device, self.autocast_dtype):
            for start in range(0, len(order), _PROMPTS_PER_BATCH):
                batch = order[start : start + _PROMPTS_PER_BATCH]
                texts = self._answer([prompts[index] for index in batch])
                for index, text in zip(batch, texts, strict=True):
                    answers[index] = text
        pairs = gather_object(list(zip(mine, answers, strict=True)))
        return [text for _, text in sorted(pairs)]

    def _answer(self, prompts: Sequence[tuple[int, ...]]) -> list[str]:
        longest = max(len(prompt) for prompt in prompts)
        pad = padding_id(self.tokenizer)
        rows = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        masks = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
        device = self.accelerator.device
        output = self.model.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(masks, device=device),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=sorted(self.end_token_ids),
            pad_token_id=pad,
        )
        return self.tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)


@contextmanager
def _ready_to_generate(model: Any) -> Iterator[None]:
    """Evaluation mode, a key-value cache, and the attention kernel that it needs."""
    was_training = model.training
    kernel = model.config._attn_implementation
    model.eval()
    model.set_attn_implementation("sdpa")
    try:
        with torch.inference_mode():
            yield
    finally:
        model.set_attn_implementation(kernel)
        model.train(was_training)
