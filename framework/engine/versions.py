"""What is installed -> the versions that decide what a run computes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path

PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")
"""What every run uses."""

OPTIONAL = (
    "safetensors",
    "huggingface_hub",
    "jinja2",
    "omegaconf",
    "pyarrow",
    "trl",
    "deepspeed",
    "bitsandbytes",
    "torchao",
    "liger-kernel",
    "flash-attn",
    "triton",
    "kernels",
    "gptqmodel",
    "hqq",
    "vllm",
    "nvidia-cublas-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-nccl-cu12",
)
"""What also counts where it is installed."""


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Python's, our own with a hash of its source, and those of the named packages that are
    installed."""
    own = f"{importlib.metadata.version('framework')} (source {source_hash()})"
    found = {"python": platform.python_version(), "framework": own}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def source_hash() -> str:
    """Of all our own code."""
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        source.update(path.read_bytes())
    return source.hexdigest()[:12]
