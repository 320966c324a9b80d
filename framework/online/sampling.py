"""Prompts -> answers that the model draws, cut where they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.chat.answer_text import answer_text
from framework.core.rollouts import Answer, Prompt, Sampling
from framework.models.generating import generated, ready_to_generate
from framework.models.precision import autocast
from framework.models.tokenizer import padding_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from framework.online.bench import Workbench


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Draws with the global random numbers, which the engine seeds for every step; rewards are told
    of answers as they are there."""

    bench: Workbench
    sampling: Sampling
    max_new_tokens: int

    def __call__(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """An answer to each prompt, in order."""
        bench = self.bench
        model = bench.accelerator.unwrap_model(bench.model)
        answers: list[Answer] = []
        with ready_to_generate(model), autocast(bench.accelerator.device, bench.autocast_dtype):
            for start in range(0, len(prompts), bench.answers_at_once):
                batch = prompts[start : start + bench.answers_at_once]
                drawn = [
                    answer_of(prompt, tokens, bench.end_token_ids, bench.tokenizer)
                    for prompt, tokens in zip(batch, self._drawn(model, batch), strict=True)
                ]
                bench.scoring.tell(drawn)
                answers += drawn
        return answers

    def _drawn(self, model: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
        return generated(
            model,
            [one.tokens for one in prompts],
            padding=padding_id(self.bench.tokenizer),
            end_token_ids=self.bench.end_token_ids,
            max_new_tokens=self.max_new_tokens,
            do_sample=True,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            top_k=self.sampling.top_k,
            min_p=self.sampling.min_p or None,
            repetition_penalty=1.0,
            disable_compile=True,
        )


def answer_of(
    prompt: Prompt,
    tokens: Sequence[int],
    end_token_ids: frozenset[int],
    tokenizer: PreTrainedTokenizerBase,
) -> Answer:
    """The answer up to the first token at which it is over; what follows is padding."""
    place = next((at for at, token in enumerate(tokens) if token in end_token_ids), None)
    said = tokens if place is None else tokens[: place + 1]
    return Answer(
        prompt=prompt,
        tokens=tuple(said),
        text=answer_text(tokenizer, tokens[:place]),
        truncated=place is None,
    )
