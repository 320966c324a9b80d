"""A text -> a random generator that draws the same in every process and on every machine."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def seeded(text: str) -> np.random.Generator:
    """The generator that the text alone seeds, such as `SEED/EPOCH`."""
    import numpy as np

    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16])))
