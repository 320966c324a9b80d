"""JOB -> this framework's own training loop, one optimizer step a turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import framework_recipe
from protocol import Turns, read_job
from torch.nn import Module

from framework.core.batch import Features
from framework.core.world import World
from framework.data.prepared import prepare_data
from framework.data.store import Store
from framework.engine.fit import fit
from framework.models.load import load_bundle
from framework.planning.plan import Plan, make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.runs.run_directory import RunDirectory, open_run

PACKAGES = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class TurnDirectory(RunDirectory):
    """A run's folder that takes a turn where the loop writes that a step is over."""

    plan: Plan
    store: Store
    model: Module
    turns: Turns = field(default_factory=partial(Turns, PACKAGES))
    seen: list[str] = field(default_factory=list)
    """Samples of the current step."""

    def write(self, name: str, value: object) -> None:
        """The plan is written right before the first step."""
        super().write(name, value)
        if name == "plan.json":
            self.turns.begin(dtypes=dtypes(self.plan, self.model))

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """The samples of a step come first, its loss ends it."""
        super().append(name, row)
        if name == "samples.jsonl":
            self.seen[:] = row["ids"]
        if name == "metrics.jsonl" and "loss" in row:
            rows = [self.store.features(self.store.sample_of(one)) for one in self.seen]
            self.turns.end_step(loss=row["loss"], **counts(rows))


def counts(rows: list[Features]) -> dict[str, Any]:
    """Tokens of the rows as they stand in the data, whatever is shared between them."""
    return {
        "num_rows": len(rows),
        "num_tokens": sum(row.num_tokens for row in rows),
        "num_trained_tokens": sum(row.num_trained_tokens for row in rows),
        "lengths": [len(document.tokens) for row in rows for document in row.documents],
    }


def dtypes(plan: Plan, model: Module) -> str:
    """Of frozen and trained weights and of products."""
    kinds = {
        kind: "/".join(sorted({str(one.dtype)[6:] for one in chosen}))
        for kind, chosen in (
            ("frozen", [one for one in model.parameters() if not one.requires_grad]),
            ("trained", [one for one in model.parameters() if one.requires_grad]),
        )
    }
    parts = [f"{kind} {name}" for kind, name in kinds.items() if name]
    return ", ".join([*parts, *([f"autocast {plan.autocast_dtype}"] * bool(plan.autocast_dtype))])


def main() -> None:
    """The straight line of `framework.train`, without what a user is shown at its end."""
    job = read_job()
    resolved = resolve_with_origins(framework_recipe.write_recipe(job), (), ())
    plan = make_plan(resolved, World.from_env())
    with open_run(plan) as directory:
        data = prepare_data(plan.recipe)
        bundle = load_bundle(plan, data.model_path, data.tokenizer)
        turns = TurnDirectory(directory.path, directory.is_main, plan, data.train, bundle.model)
        fit(plan, data, bundle, turns)


if __name__ == "__main__":
    main()
