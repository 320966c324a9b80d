"""JOB -> the same model, kernels and batches in a loop of a few lines: what the engine costs."""

from __future__ import annotations

import framework_recipe
import torch
from framework_train import PACKAGES, counts, dtypes
from protocol import LEARNING_RATE, NUM_STEPS, Turns, read_job

from framework.core.world import World
from framework.data.prepared import prepare_data
from framework.engine.batches import batch_of
from framework.engine.feed import make_feed
from framework.models.load import load_bundle
from framework.models.policy import CausalPolicy
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins


def main() -> None:
    """Forward, backward, clip, step."""
    job = read_job()
    resolved = resolve_with_origins(framework_recipe.write_recipe(job), (), ())
    plan = make_plan(resolved, World.from_env())
    data = prepare_data(plan.recipe)
    model = load_bundle(plan, data.model_path, data.tokenizer).model
    model.train()
    feed = make_feed(data.train, plan.recipe.trainer)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    policy = CausalPolicy(model, plan.autocast_dtype, logits_bytes=plan.logits_bytes)
    turns = Turns(PACKAGES)
    turns.begin(dtypes=dtypes(plan, model))
    for step in range(NUM_STEPS):
        units = feed.global_batch(step)
        batches = [
            batch_of([units[at] for at in places])
            for places in plan.pass_size.deal([unit.num_tokens for unit in units], 1)[0]
        ]
        num_labels = sum(batch.labels.numel() for batch in batches)
        total = 0.0
        for batch in batches:
            loss = policy.negative_log_likelihood(batch).sum() / num_labels
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        turns.end_step(loss=total, **counts([one for unit in units for one in unit.features]))


if __name__ == "__main__":
    main()
