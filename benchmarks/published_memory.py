"""Planned memory against what others measured on GPUs; prints a row for each figure.

python benchmarks/published_memory.py [--limit 0.15] [--only PART_OF_A_SOURCE]

The figures, with their sources, are in published_memory.yaml. No weights are needed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from plan_memory import make_tokenizer, write_recipe, write_rows

FIGURES = Path(__file__).with_name("published_memory.yaml")
GIB = 2**30


def main() -> None:
    """Prints the table and how many figures are within the limit."""
    parser = argparse.ArgumentParser(description="Compare planned with published memory.")
    parser.add_argument("--limit", type=float, default=0.15, help="Relative error.")
    parser.add_argument("--only", default="", help="Sources whose names hold this.")
    arguments = parser.parse_args()
    written = yaml.safe_load(FIGURES.read_text(encoding="utf-8"))
    models = written.pop("models")
    print("| source | model | recipe | published GiB | planned GiB | error |")
    print("|---|---|---|---|---|---|")
    errors: list[float] = []
    chosen = {name: group for name, group in written.items() if arguments.only in name}
    for source, group in chosen.items():
        for figure in group["figures"]:
            recipe = {**group["recipe"], **figure.get("recipe", {})}
            samples = figure.get("samples", group.get("samples", 1))
            planned = plan(models[figure["model"]], recipe, group["length"], samples)
            published = float(figure["bytes"]) if "bytes" in figure else figure["gib"] * GIB
            errors.append(planned / published - 1)
            shown = ", ".join(f"{key}: {value}" for key, value in recipe.items())
            print(
                f"| {source} | {figure['model']} | {samples} x {group['length']}, {shown} "
                f"| {published / GIB:.1f} | {planned / GIB:.1f} | {errors[-1]:+.1%} |",
                flush=True,
            )
    within = sum(abs(error) <= arguments.limit for error in errors)
    print(f"\n{within} of {len(errors)} within {arguments.limit:.0%}")


def plan(model: Mapping[str, Any], changes: Mapping[str, Any], length: int, samples: int) -> int:
    """Bytes of tensors at the peak, without what libraries take."""
    from framework.core.world import World
    from framework.planning.plan import make_plan
    from framework.recipe.resolve import resolve_with_origins
    from framework.tracing.lengths import lengths_of
    from framework.tracing.peak import predicted_memory

    with tempfile.TemporaryDirectory() as written:
        folder = Path(written)
        make_folder(folder / "model", model)
        write_rows(folder / "train.jsonl", 100)
        batch = {"trainer.global_batch_size": samples, "trainer.micro_batch_size": samples}
        path = write_recipe(folder, {**batch, **changes}, length)
        world = World(device="cuda", fast_bfloat16=True)
        plan = make_plan(resolve_with_origins(path, config_only=True), world)
        return predicted_memory(plan, folder / "model", lengths_of(plan, folder / "model")).peak


def make_folder(folder: Path, model: Mapping[str, Any]) -> None:
    """A configuration, and a tokenizer."""
    from transformers import AutoConfig

    make_tokenizer(folder)
    kind = model.get("model_type", "llama")
    sizes = {key: value for key, value in model.items() if key != "model_type"}
    config = AutoConfig.for_model(kind, **sizes, max_position_embeddings=8192, bos_token_id=None)
    config.save_pretrained(folder)


if __name__ == "__main__":
    main()
