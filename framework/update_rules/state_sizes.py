"""Numbers of a parameter -> bytes of what an optimizer keeps of it in few bits."""

from __future__ import annotations

SMALLEST = 4096
"""bitsandbytes keeps float32 for parameters of fewer numbers."""
BLOCK = 256
"""Numbers that share a scale."""


def blockwise_bytes(num_numbers: int, *, num_states: int, bits: int) -> int:
    """Of states as bitsandbytes holds them; `bits` is 8 or 32."""
    if bits == 32 or num_numbers < SMALLEST:
        return num_states * 4 * num_numbers
    return num_states * (num_numbers + -(-num_numbers // BLOCK) * 4)
