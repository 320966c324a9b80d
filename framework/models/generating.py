"""Prompts -> the tokens with which a model goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer

from framework.recipe.model_files import rotations_by_length

_READ_TOGETHER = 8
"""Prompts of a pass: enough to keep a processor busy, and few enough to be of like length."""
_PIECE = 16
"""New tokens after which answers that are over leave."""
_SHORTEST_BEGINNING = 16
"""Fewer tokens take less time than the pass of their own in which they would be read."""
_OF_WHOLE_ROWS = frozenset(
    {
        "begin_suppress_tokens",
        "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty",
        "exponential_decay_length_penalty",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "min_length",
        "min_new_tokens",
        "no_repeat_ngram_size",
        "repetition_penalty",
        "sequence_bias",
    }
)
"""Settings of a model's own `generation_config` that look at a row's length or at its padding."""
_UNSET = (None, False, 0, 1.0)
_LIKELIEST = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


@contextmanager
def ready_to_generate(model: Any) -> Iterator[None]:
    """Evaluation mode, no gradients, a key-value cache, and the attention kernel that it needs."""
    was_training = model.training
    kernel = model.config._attn_implementation
    model.eval()
    model.set_attn_implementation("sdpa")
    try:
        with torch.no_grad():
            yield
    finally:
        model.set_attn_implementation(kernel)
        model.train(was_training)


def generated(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    padding: int,
    end_token_ids: Collection[int],
    max_new_tokens: int,
    **choice: Any,
) -> list[list[int]]:
    """The new tokens after each prompt; those of answers that end earlier are padded.

    Args:
        padding: the token that stands before shorter prompts and after shorter answers.
        choice: how transformers chooses each token: `do_sample`, `temperature` ...
    """
    longest = max(map(len, prompts))
    rows = [[padding] * (longest - len(one)) + list(one) for one in prompts]
    masks = [[0] * (longest - len(one)) + [1] * len(one) for one in prompts]
    output = model.generate(
        input_ids=torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(masks, device=model.device),
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_token_ids),
        pad_token_id=padding,
        **choice,
    )
    return output[:, longest:].tolist()


def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    padding: int,
    end_token_ids: Collection[int],
    max_new_tokens: int,
    together: bool,
) -> list[list[int]]:
    """The likeliest answer to each prompt, up to the token that ends it; padding may follow.

    For less than `generated` takes: prompts of like length are read together, what all begin with
    is read once, and an answer that is over leaves the others. Where that can't be, since a model
    keeps something else than each token's keys and values, or looks at how long rows are, the
    answers are `generated`.

    Args:
        together: processes share the weights out, so that all have to run as many passes.
    """
    settings = model.generation_config.to_dict()
    of_rows = [name for name in _OF_WHOLE_ROWS if settings.get(name) not in _UNSET]
    ending = {"eos_token_id": sorted(end_token_ids), "pad_token_id": padding}
    generate = partial(model.generate, **ending, **_LIKELIEST, return_dict_in_generate=True)
    rotations = rotations_by_length(model.config.get_text_config().to_dict())
    whole = together or bool(of_rows) or rotations is not None
    batch = None if whole else _read(generate, model.device, prompts, padding)
    if batch is None:
        return generated(
            model,
            prompts,
            padding=padding,
            end_token_ids=end_token_ids,
            max_new_tokens=max_new_tokens,
            synced_gpus=together,
            **_LIKELIEST,
        )
    answers: list[list[int]] = [[] for _ in prompts]
    batch = batch.without_ended(answers, batch.tokens[:, -1:], end_token_ids)
    num_new = 1
    while batch.rows and num_new < max_new_tokens:
        num_before = batch.tokens.shape[1]
        output = generate(
            input_ids=batch.tokens,
            attention_mask=batch.mask,
            past_key_values=batch.cache,
            max_new_tokens=min(_PIECE, max_new_tokens - num_new),
        )
        new = output.sequences[:, num_before:]
        num_new += new.shape[1]
        mask = torch.cat([batch.mask, batch.mask.new_ones(new.shape)], dim=1)
        batch = replace(batch, tokens=output.sequences, mask=mask)
        batch = batch.without_ended(answers, new, end_token_ids)
    return answers


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Answers that are not over, as `generate` goes on from them."""

    rows: list[int]
    """Whose they are: places among the prompts."""
    tokens: Tensor
    """Prompt and answer so far, of all but the last the keys and values are in `cache`."""
    mask: Tensor
    """0 where padding stands: before the row, or between what all begin with and the rest."""
    cache: DynamicCache

    def without_ended(
        self, answers: list[list[int]], new: Tensor, end_token_ids: Collection[int]
    ) -> _Batch:
        """Those that go on after `new` tokens, which are added to the answers of all."""
        kept = []
        for place, (row, tokens) in enumerate(zip(self.rows, new.tolist(), strict=True)):
            end = next((at for at, token in enumerate(tokens) if token in end_token_ids), None)
            answers[row] += tokens if end is None else tokens[: end + 1]
            if end is None:
                kept.append(place)
        if len(kept) == len(self.rows):
            return self
        chosen = torch.tensor(kept, dtype=torch.long, device=new.device)
        self.cache.batch_select_indices(chosen)
        return replace(
            self,
            rows=[self.rows[place] for place in kept],
            tokens=self.tokens[chosen],
            mask=self.mask[chosen],
        )


def _read(
    generate: Callable[..., Any],
    device: torch.device,
    prompts: Sequence[Sequence[int]],
    padding: int,
) -> _Batch | None:
    """All prompts and the first token of each answer; None where they can't be read in groups."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    num_shared = min(_num_shared(prompts), len(prompts[order[0]]) - 1)
    beginning: Any = None
    if num_shared >= _SHORTEST_BEGINNING:
        tokens, mask = _padded([prompts[0][:num_shared]], num_shared, padding, device)
        output = generate(input_ids=tokens, attention_mask=mask, max_new_tokens=1)
        beginning = output.past_key_values
        if not _holds_tokens(beginning, num_shared):
            return None
    read: list[tuple[Tensor, Tensor, DynamicCache]] = []
    for start in range(0, len(order), _READ_TOGETHER):
        rows = [prompts[row] for row in order[start : start + _READ_TOGETHER]]
        tokens, mask = _padded(rows, num_shared, padding, device)
        cache = copy.deepcopy(beginning)
        if cache is not None:
            cache.batch_repeat_interleave(len(rows))
        output = generate(
            input_ids=tokens, attention_mask=mask, past_key_values=cache, max_new_tokens=1
        )
        if not _holds_tokens(output.past_key_values, tokens.shape[1]):
            return None
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        read.append((output.sequences, mask, output.past_key_values))
    longest = max(tokens.shape[1] for tokens, _, _ in read)
    return _Batch(
        rows=order,
        tokens=torch.cat([_lengthened(tokens, longest, padding) for tokens, _, _ in read]),
        mask=torch.cat([_lengthened(mask, longest, 0) for _, mask, _ in read]),
        cache=_joined([cache for _, _, cache in read], longest - 1),
    )


def _num_shared(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens with which all of several prompts begin."""
    if len(prompts) == 1:
        return 0
    columns = enumerate(zip(*prompts, strict=False))
    shortest = min(map(len, prompts))
    return next((at for at, column in columns if len(set(column)) > 1), shortest)


def _padded(
    rows: Sequence[Sequence[int]], num_shared: int, padding: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Tokens and their mask, padded after what all begin with."""
    longest = max(map(len, rows))
    tokens, masks = [], []
    for one in rows:
        room = longest - len(one)
        tokens.append([*one[:num_shared], *[padding] * room, *one[num_shared:]])
        masks.append([*[1] * num_shared, *[0] * room, *[1] * (len(one) - num_shared)])
    return torch.tensor(tokens, device=device), torch.tensor(masks, device=device)


def _holds_tokens(cache: Any, num_tokens: int) -> bool:
    """Whether rows can be taken out of the cache and put into another: it holds the keys and values
    of just these tokens, not a state, a window, or what an adapter puts before them."""
    return (
        type(cache) is DynamicCache
        and all(type(layer) is DynamicLayer for layer in cache.layers)
        and cache.get_seq_length() == num_tokens
    )


def _lengthened(rows: Tensor, length: int, value: int) -> Tensor:
    return pad(rows, (length - rows.shape[1], 0), value=value)


def _joined(caches: Sequence[DynamicCache], length: int) -> DynamicCache:
    """The rows of all; each layer is given up when it is copied, so that none is there twice."""
    joined = DynamicCache()
    for index in range(len(caches[0].layers)):
        layers: list[Any] = [cache.layers.pop(0) for cache in caches]
        room = [(0, 0, length - layer.keys.shape[-2], 0) for layer in layers]
        keys = torch.cat([pad(layer.keys, one) for layer, one in zip(layers, room, strict=True)])
        values = torch.cat(
            [pad(layer.values, one) for layer, one in zip(layers, room, strict=True)]
        )
        joined.update(keys, values, index)
    return joined
