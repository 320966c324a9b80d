"""`framework merge`: a run -> one model in a dtype, an adapter merged into it, proven equal."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from framework.arguments import AllowedEnvironment, AsJson, RunPath


class Dtype(StrEnum):
    """What the weights are written in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def run(
    run_dir: RunPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; new.")],
    dtype: Annotated[Dtype, typer.Option(help="What the weights are written in.")] = Dtype.float32,
    allow_env: AllowedEnvironment = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's whole model, in a dtype; refuses a result that is not the trained model."""
    from framework.runs.merge import merge
    from framework.runs.trained import FinishedRun

    finished = FinishedRun.open(run_dir, allow_env or ())
    proof = merge(finished, output, dtype.value)
    if as_json:
        print(json.dumps({**dataclasses.asdict(proof), "output": str(output)}, indent=2))
        return
    trained = "adapter on base" if finished.has_adapter else "final/"
    print(
        f"{output}: {dtype.value}; logits differ from {trained} by at most "
        f"{proof.largest_difference:.2g}, from the base by up to {proof.largest_change:.2g}"
    )
    if proof.quantization is not None:
        print(
            f"merged into the weights that {proof.quantization} left, over which it was trained"
            + _on_whole_weights(proof.difference_on_whole_weights)
        )


def _on_whole_weights(difference: float | None) -> str:
    if difference is None:
        return ""
    return (
        f"; on the base's whole weights the adapter would be off by {difference:.0%} of what it "
        "changes"
    )
