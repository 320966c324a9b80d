"""GGUF file -> cached folder in Hugging Face layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from framework.core.atomic import known_sha256
from framework.core.cache import cached_folder, find_folder
from framework.core.problems import UserError
from framework.models.gguf_header import check_gguf
from framework.models.quiet import quiet

CONVERSION = 1
"""Raised when the same file would become a different folder."""

MAGIC = b"GGUF"


def conversion_key(sha256: str) -> str:
    """Cache key of a GGUF file's conversion."""
    return f"gguf-{sha256}-v{CONVERSION}"


def find_conversion(sha256: str) -> Path | None:
    """The converted folder, None when the file was not converted yet."""
    return find_folder("models", conversion_key(sha256))


def is_gguf(path: Path) -> bool:
    """Whether the file starts as a GGUF file does."""
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def convert_gguf(file: Path, sha256: str | None = None) -> Path:
    """Folder with the file's model, tokenizer, chat template and generation settings.

    Weights become float32: every GGUF type fits into it unrounded (float16 scales do not fit into
    bfloat16), so the recipe's `model.dtype` is the only rounding there is.

    Raises:
        UserError: it is not a GGUF file, or of an architecture that can't be read.
    """
    if not is_gguf(file):
        raise UserError(
            f"{str(file)!r} is not a GGUF file (it does not start with `GGUF`)",
            hint="download it again; a page or a Git LFS pointer may have been saved in its place",
        )
    key = conversion_key(sha256 or known_sha256(file))
    return cached_folder("models", key, lambda folder: _convert(file, folder))


def _convert(file: Path, into: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    check_gguf(file)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                file.parent,
                gguf_file=file.name,
                local_files_only=True,
                trust_remote_code=False,
            )
            pair: Any = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # anything the libraries raise about a file that they can't use
        raise UserError(
            f"{str(file)!r} can't be converted: {error}",
            hint="use the model's safetensors repository instead",
        ) from error
    model, loaded = pair
    absent = sorted(loaded["missing_keys"])
    if absent:
        raise UserError(
            f"{str(file)!r} lacks {len(absent)} of the model's weights, such as {absent[0]!r}",
            hint="use the model's safetensors repository instead",
        )
    with quiet():
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)
    _forget_origin(into / "tokenizer_config.json")


def _forget_origin(path: Path) -> None:
    """Drops what the tokenizer remembers about where it was loaded from."""
    settings = json.loads(path.read_text())
    for name in ("is_local", "local_files_only", "name_or_path"):
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
