"""Encoded samples and the recipe's mixture -> which samples each stage of the run trains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mix(num_samples: int) -> Sequence[NDArray[np.int64]]:
    """The samples of each stage; one may stand in several, or several times in one."""
    return [np.arange(num_samples)]
