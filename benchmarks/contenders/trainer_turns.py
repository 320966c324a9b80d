"""transformers' Trainer, and all that are built on it -> one optimizer step a turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import transformers.trainer
from protocol import Turns
from torch.nn import Module
from transformers import TrainerCallback, TrainingArguments


class TakeTurns(TrainerCallback):
    """Counts the tokens that are collated, and takes a turn where a step has been logged.

    A step is what lies between two logs, so it holds collating, which the Trainer does before
    `on_step_begin`, and what the Trainer computes to log.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        self.turns = Turns(packages)
        self.counts: deque[Mapping[str, int]] = deque()
        self.num_passes = 0

    def on_train_begin(
        self, args: TrainingArguments, state: Any, control: Any, **given: Any
    ) -> None:
        """Batches are collated ahead of their step, so their counts wait in a queue."""
        loader = given["train_dataloader"].base_dataloader
        loader.collate_fn = self._counting(loader.collate_fn)
        self.turns.begin(dtypes=_dtypes(given["model"], args))

    def on_substep_end(self, *_: Any, **given: Any) -> None:
        """A forward pass that no optimizer step follows."""
        self.num_passes += 1

    def on_step_end(self, *_: Any, **given: Any) -> None:
        """The step's last pass; at the end of an epoch a step may have fewer than others."""
        self.num_passes += 1

    def on_log(
        self,
        args: TrainingArguments,
        state: Any,
        control: Any,
        logs: Mapping[str, Any] | None = None,
        **given: Any,
    ) -> None:
        """Once a step: `logging_steps` is 1."""
        if logs and "loss" in logs:
            taken = [self.counts.popleft() for _ in range(self.num_passes)]
            self.num_passes = 0
            totals = {name: sum(one[name] for one in taken) for name in taken[0]}
            self.turns.end_step(loss=float(logs["loss"]), **totals)

    def _counting(self, collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
        def counting(rows: list[Any]) -> Any:
            # Axolotl's sampler hands over a list of rows for each pack.
            packs = [one if isinstance(one, list) else [one] for one in rows]
            self.counts.append(_counted(list(chain.from_iterable(packs))))
            return collate(rows)

        return counting


def take_turns(packages: Sequence[str]) -> None:
    """Every Trainer that is made from now on takes turns."""
    transformers.trainer.DEFAULT_CALLBACKS.append(TakeTurns(packages))


def _counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Real tokens: what pads a row is no work that was asked for."""
    if "prompt_ids" in rows[0]:
        answers = [(row["prompt_ids"], row[name]) for row in rows for name in _ANSWERS]
        return {
            "num_tokens": sum(len(prompt) + len(answer) for prompt, answer in answers),
            "num_trained_tokens": sum(len(answer) for _, answer in answers),
        }
    return {
        "num_tokens": sum(_num_real(row) for row in rows),
        # A row's first token has none before it and is never trained.
        "num_trained_tokens": sum(
            sum(label != -100 for label in row["labels"][1:]) for row in rows if "labels" in row
        ),
    }


_ANSWERS = ("chosen_ids", "rejected_ids")


def _num_real(row: Mapping[str, Any]) -> int:
    # Packs number their documents from 1 there, and padding is 0.
    mask = row.get("attention_mask")
    return len(row["input_ids"]) if mask is None else sum(one != 0 for one in mask)


def _dtypes(model: Module, args: TrainingArguments) -> str:
    frozen = {str(one.dtype)[6:] for one in model.parameters() if not one.requires_grad}
    trained = {str(one.dtype)[6:] for one in model.parameters() if one.requires_grad}
    parts = [f"frozen {'/'.join(sorted(frozen))}"] * bool(frozen)
    parts.append(f"trained {'/'.join(sorted(trained))}")
    return ", ".join(parts + ["autocast bfloat16"] * bool(args.bf16))
