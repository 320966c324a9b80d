"""Causal language model -> the policy that trainers ask for losses.

Shapes: T tokens in the row, L labels, V tokens in the vocabulary.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module

from framework.attention.constants import kept_constant
from framework.attention.sequence_parallel import OwnLabels, SequenceGroup, SlicedRow
from framework.core.batch import Batch, Shared
from framework.losses.cross_entropy import TokenScores, token_losses, token_scores
from framework.losses.linear_cross_entropy import linear_token_losses
from framework.models.bare_head import bare_head, in_place_of
from framework.models.collate import flat_batch, on_device, with_tokens
from framework.models.noise import noisy_embeddings
from framework.models.peft_models import is_peft_model
from framework.models.precision import autocast


class CausalPolicy:
    """The model as trainers see it; the head runs at label positions only.

    Args:
        model: a causal language model, plain or wrapped by peft, DDP or FSDP.
        autocast_dtype: `bfloat16` or `float16` to compute matrix products in it; None where the
            weights' own dtype is what the recipe asks for.
        noise_alpha: size of the noise on the input embeddings while the model trains; None: none.
        logits_bytes: most bytes of logits that losses of labels are computed from at a time; None:
            all logits at once, as with a head that `bare_head` doesn't know.
        shares: common beginnings of a batch's documents are computed once.
        sequence: processes that compute each row together, a slice of it each; None: this one does.
    """

    def __init__(
        self,
        model: Module,
        autocast_dtype: str | None = None,
        noise_alpha: float | None = None,
        logits_bytes: int | None = None,
        *,
        shares: bool = False,
        sequence: SequenceGroup | None = None,
    ) -> None:
        self.model = model
        self.shares = shares
        self.sequence = sequence
        self.autocast_dtype = autocast_dtype
        self.noise_alpha = noise_alpha
        self._plain = plain_model(model)
        accepted = inspect.signature(self._plain.forward).parameters
        self._heads_at_labels = "logits_to_keep" in accepted
        self._num_virtual_tokens = num_virtual_tokens(model)
        self._logits_bytes = logits_bytes
        self._head = None
        if logits_bytes is not None and not self._num_virtual_tokens:
            one = _one_token(next(self._plain.parameters()).device)
            inputs = _inputs(one.input_ids, one.position_ids, one)
            self._head = bare_head(self._plain, inputs, autocast_dtype)

    @property
    def makes_whole_logits(self) -> bool:
        """Whether losses of labels are computed from the logits of all of them at once."""
        return self._head is None

    @property
    def num_positions(self) -> int | None:
        """See `Limited`."""
        config: Any = self._plain.config
        limit = config.get_text_config().to_dict().get("max_position_embeddings")
        return limit - self._num_virtual_tokens if isinstance(limit, int) else None

    def logits(self, batch: Batch) -> Tensor:
        """[L, V]: logits at the label positions, in the dtype that the model computes in."""
        logits, own = self._own_logits(batch)
        return own.of_all(logits)

    def _own_logits(self, batch: Batch) -> tuple[Tensor, OwnLabels]:
        """[own labels, V], and which they are."""
        if self._num_virtual_tokens:
            logits = self._logits_document_by_document(batch)
            return logits, OwnLabels(rows=batch.label_positions)
        own = self.own_labels(batch, batch.label_positions)
        settings = {"logits_to_keep": own.rows} if self._heads_at_labels else {}
        logits = self.forward(batch, **settings).logits[0]
        return logits if self._heads_at_labels else logits.index_select(0, own.rows), own

    def own_labels(self, batch: Batch, positions: Tensor) -> OwnLabels:
        """Of the labels whose predictions are read at these of the batch's tokens, those that
        `forward` computes."""
        shared = self._laid(batch)
        rows = positions if shared is None else shared.rows[positions]
        return OwnLabels(rows=rows) if self.sequence is None else self._row(batch).labels(rows)

    def _laid(self, batch: Batch) -> Shared | None:
        return batch.shared if self.shares else None

    def _row(self, batch: Batch) -> SlicedRow:
        group, shared = self.sequence, self._laid(batch)
        assert group is not None, "no row is sliced"
        tokens = batch.input_ids[0] if shared is None else shared.tokens
        return SlicedRow(group=group, num_tokens=max(len(tokens), group.size))

    def forward(self, batch: Batch, **settings: Any) -> Any:
        """What the model gives for the row, in which common beginnings may stand once; of a row
        that several processes compute, for this one's slice."""
        shared, own = self._laid(batch), slice(None)
        if self.sequence is not None:
            batch = with_tokens(batch, self.sequence.size)
            row = settings["sliced_row"] = self._row(batch)
            own = row.own
        tokens, positions = batch.input_ids, batch.position_ids
        if shared is not None:
            tokens, positions = tokens[:, shared.tokens], positions[:, shared.tokens]
            settings["shared"] = shared
        with (
            autocast(batch.input_ids.device, self.autocast_dtype),
            noisy_embeddings(self._plain, batch.boundaries, self.noise_alpha, own),
        ):
            return self.model(**_inputs(tokens[:, own], positions[:, own], batch), **settings)

    def _logits_document_by_document(self, batch: Batch) -> Tensor:
        """The same by one forward pass for each document that has labels, and at least one."""
        boundaries = batch.boundaries.tolist()
        wanted = batch.label_documents.unique().tolist() or [0]
        found: list[Tensor] = []
        for document in wanted:
            start, stop = boundaries[document : document + 2]
            # From the end: the output may begin with virtual tokens.
            positions = batch.label_positions[batch.label_documents == document] - stop
            settings: dict[str, Any] = {}
            if self._heads_at_labels:
                settings["logits_to_keep"] = positions
            alone = batch.boundaries[document : document + 2]
            with (
                autocast(batch.input_ids.device, self.autocast_dtype),
                noisy_embeddings(self._plain, alone, self.noise_alpha),
            ):
                output = self.model(input_ids=batch.input_ids[:, start:stop], **settings)
            logits = output.logits[0]
            found.append(logits if self._heads_at_labels else logits[positions])
        return torch.cat(found)

    def negative_log_likelihood(self, batch: Batch) -> Tensor:
        """float32 [L]: -log p(label | the tokens before it in its document).

        Without labels it is empty, and its sum is still connected to every parameter.
        """
        if self._head is None:
            logits, own = self._own_logits(batch)
            return own.of_all(token_losses(logits, own.select(batch.labels)))
        own = self.own_labels(batch, batch.label_positions)
        settings = {"logits_to_keep": own.rows} if self._heads_at_labels else {}
        with in_place_of(self._head, partial(self._losses, self._head, batch, own)):
            return own.of_all(self.forward(batch, **settings).logits[0])

    def token_scores(self, batch: Batch) -> TokenScores:
        """float32 [L] each: what variants of cross-entropy are made of."""
        logits, own = self._own_logits(batch)
        scores = token_scores(logits, own.select(batch.labels))
        return TokenScores(*map(own.of_all, scores))

    def _losses(self, head: Linear, batch: Batch, own: OwnLabels, hidden: Tensor) -> Tensor:
        """[1, own labels], of the hidden states that the head is given."""
        rows = hidden[0]
        if not self._heads_at_labels:
            rows = rows.index_select(0, own.rows)
        name = self.autocast_dtype
        dtype = head.weight.dtype if name is None else getattr(torch, name)
        assert self._logits_bytes is not None
        with torch.autocast(hidden.device.type, enabled=False):
            losses = linear_token_losses(
                rows.to(dtype),
                head.weight,
                head.bias,
                own.select(batch.labels),
                self._logits_bytes,
            )
        return losses[None]


def _inputs(tokens: Tensor, positions: Tensor, batch: Batch) -> dict[str, Any]:
    """What a model is given of a row of the batch's documents."""
    return {
        "input_ids": tokens,
        "position_ids": positions,
        "attention_mask": None,
        "use_cache": False,
        "cu_seq_lens_q": batch.boundaries,
        "cu_seq_lens_k": batch.boundaries,
        "max_length_q": batch.max_document_length,
        "max_length_k": batch.max_document_length,
    }


@kept_constant(1)
def _one_token(device: torch.device) -> Batch:
    """A batch of one token that is no label."""
    return on_device(flat_batch([], []), device)


def plain_model(model: Module) -> Module:
    """The transformers model inside any wrappers."""
    inner = _unwrapped(model)
    return inner.get_base_model() if is_peft_model(inner) else inner


def num_virtual_tokens(model: Module) -> int:
    """How many tokens of its own an adapter puts before every row; a row then is one document."""
    inner = _unwrapped(model)
    if not is_peft_model(inner):
        return 0
    from peft import PromptLearningConfig

    config = inner.active_peft_config
    return config.num_virtual_tokens if isinstance(config, PromptLearningConfig) else 0


def _unwrapped(model: Module) -> Module:
    """Without DDP or DeepSpeed around it, of which accelerate would import the latter to see."""
    while [name for name, _ in model.named_children()] == ["module"]:
        model = model.get_submodule("module")
    return model
