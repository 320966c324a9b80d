"""What an online algorithm works with: the model, its tokenizer, and the recipe's choices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.batch import Policy
from framework.online.scoring import Scoring

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.nn import Module
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """One process's part of a run."""

    accelerator: Accelerator
    model: Module
    """As the strategy wrapped it."""
    policy: Policy
    reference: Policy | None
    """What the model is held near, where the method compares."""
    reference_model: Module | None
    """The model behind it; None where it is the trained one with its adapter switched off."""
    tokenizer: PreTrainedTokenizerBase
    end_token_ids: frozenset[int]
    """Tokens at which an answer is over."""
    scoring: Scoring
    autocast_dtype: str | None
    global_batch_size: int
    """Answers of one optimizer step, over all processes."""
    micro_batch_size: int
    """Answers of one forward pass."""
    folder: Path
    """For what must be written somewhere; nothing in it is kept."""
    seed: int
    answers_at_once: int = 64
    """Answers that are drawn together."""
