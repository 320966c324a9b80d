"""bitsandbytes on a CPU -> right scales for 4-bit layers whose rows aren't whole blocks."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

OPERATOR = "bitsandbytes::dequantize_4bit"
BLOCK = 64


@functools.cache
def repair_blocks() -> None:
    """Lets blocks of 64 weights go on from one row to the next, as they are quantised.

    The CPU's kernel in bitsandbytes 0.50 counts blocks anew in each row, so where 64 does not
    divide the number of inputs it takes the scales of other blocks. Nothing is changed where the
    installed kernel is right.
    """
    if _is_right():
        return
    kernel = torch.library.get_kernel(OPERATOR, "CPU")

    def dequantize(
        keys: Any,
        packed: Tensor,
        scales: Tensor,
        block: int,
        kind: str,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> Tensor:
        straddles = shape[-1] % block != 0
        laid_out = [math.prod(shape)] if straddles else list(shape)
        numbers = kernel.call_boxed(keys, packed, scales, block, kind, laid_out, dtype)
        return numbers.reshape(tuple(shape))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*only once for all operators.*")
        _LIBRARY.impl("dequantize_4bit", dequantize, "CPU", with_keyset=True, allow_override=True)
    assert _is_right()


_LIBRARY = torch.library.Library("bitsandbytes", "FRAGMENT")
"""An override lasts as long as this object."""


def _is_right() -> bool:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    rows = torch.linspace(-1, 1, 6 * BLOCK).reshape(-1, BLOCK // 2) ** 3
    packed, state = quantize_4bit(rows, blocksize=BLOCK, quant_type="nf4")
    right = dequantize_4bit(*quantize_4bit(rows.flatten(), blocksize=BLOCK, quant_type="nf4"))
    return torch.equal(dequantize_4bit(packed, state).flatten(), right)
