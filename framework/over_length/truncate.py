"""A document that is too long -> its beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from framework.core.batch import Features, slice_document
from framework.core.samples import Sample


@dataclass(frozen=True, kw_only=True)
class Truncate:
    """Cuts its end."""

    truncates: ClassVar[bool] = True

    def __call__(
        self,
        sample: Sample,
        features: Features,
        max_length: int,
        encode: Callable[[Sample], Sequence[Features]],
    ) -> Sequence[Features]:
        """The first `max_length` tokens."""
        (document,) = features.documents
        return (Features(documents=(slice_document(document, 0, max_length),)),)
