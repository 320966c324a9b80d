"""Folders of models whose files say that their weights are quantised already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def says(folder: Path, **quantization: Any) -> None:
    """Writes `quantization_config` into the folder's config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "quantization_config": quantization}), encoding="utf-8")


def fp8_checkpoint(folder: Path, size: int = 16) -> dict[str, torch.Tensor]:
    """Blocks of 16 x 16 FP8 numbers, each with a scale; the dequantised weights by name."""
    weights, wanted = load_file(folder / "model.safetensors"), {}
    for name in [name for name in weights if "_proj" in name]:
        rows, columns = weights[name].shape
        blocks = weights[name].reshape(rows // size, size, columns // size, size)
        scales = blocks.abs().amax((1, 3)) / 448
        numbers = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        wanted[name] = (numbers.float() * scales[:, None, :, None]).reshape(rows, columns)
        weights[name] = numbers.reshape(rows, columns)
        weights[f"{name}_scale_inv"] = scales
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    says(
        folder,
        quant_method="fp8",
        activation_scheme="dynamic",
        weight_block_size=[size, size],
        modules_to_not_convert=["lm_head"],
    )
    return wanted
