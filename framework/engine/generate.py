"""Held-out samples -> the model's greedy answers, shared among the processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.chat.answer_text import answer_text
from framework.chat.encoder import ChatEncoder
from framework.core.samples import Sample
from framework.distributed.collectives import data_share
from framework.models.generating import greedy, ready_to_generate
from framework.models.precision import autocast
from framework.models.tokenizer import padding_id

if TYPE_CHECKING:
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
    together: bool = False
    """Processes share the weights out, so that all have to run as many passes."""

    def __call__(self, samples: Sequence[Sample]) -> list[str]:
        """One answer for each sample, in order; every process gets all of them."""
        from accelerate.utils import gather_object

        rank, size = data_share(self.accelerator)
        mine = range(rank, len(samples), size)
        prompts = [self.chat.prompt(samples[index]) for index in mine]
        # Prompts of like length share a batch: their answers' keys and values have as many places.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers = [""] * len(prompts)
        with ready_to_generate(self.model), autocast(self.accelerator.device, self.autocast_dtype):
            for start in range(0, len(order), _PROMPTS_PER_BATCH):
                batch = order[start : start + _PROMPTS_PER_BATCH]
                texts = self._answer([prompts[index] for index in batch])
                for index, text in zip(batch, texts, strict=True):
                    answers[index] = text
            if self.together and self._has_less_to_answer(len(samples), len(prompts)):
                self._answer([self.chat.prompt(samples[0])])
        pairs = gather_object(list(zip(mine, answers, strict=True)))
        # Processes that have the same data give the same answers.
        return [text for _, text in sorted(dict(pairs).items())]

    def _has_less_to_answer(self, num_samples: int, num_mine: int) -> bool:
        """Whether the main process, which has most prompts, answers a batch more than this one."""
        num_most = -(-num_samples // data_share(self.accelerator).size)
        return -(-num_most // _PROMPTS_PER_BATCH) > -(-num_mine // _PROMPTS_PER_BATCH)

    def _answer(self, prompts: Sequence[tuple[int, ...]]) -> list[str]:
        tokens = greedy(
            self.model,
            prompts,
            padding=padding_id(self.tokenizer),
            end_token_ids=self.end_token_ids,
            max_new_tokens=self.max_new_tokens,
            together=self.together,
        )
        return [answer_text(self.tokenizer, one) for one in tokens]
