"""What is installed -> the versions that decide what a run computes."""

from __future__ import annotations

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
    own = f"{_version('framework')} (source {source_hash()})"
    found = {"python": platform.python_version(), "framework": own}
    for name in names:
        version = _version(name)
        if version:
            found[name] = version
    return found


@functools.cache
def _version(name: str) -> str:
    """Empty where it is not installed. Looked for once: every checkpoint writes it down."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def source_hash() -> str:
    """Of all our own code."""
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        source.update(path.read_bytes())
    return source.hexdigest()[:12]
