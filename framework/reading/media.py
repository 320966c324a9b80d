"""A row with pictures, videos or sounds -> a refusal: only its text would be trained."""

from __future__ import annotations

from framework.core.samples import Document, Row, RowError, Sample, Tokenized

_COLUMNS = ("images", "image", "videos", "video", "audios", "audio")
"""As TRL and LLaMA-Factory call them, beside the text that speaks of them."""


def refuse_media(sample: Sample, row: Row) -> None:
    """
    Raises:
        RowError: the sample speaks of something that the row holds and no model here can see.
    """
    if isinstance(sample, Document | Tokenized):
        return
    for column in _COLUMNS:
        if row.get(column):
            raise RowError(
                f"column {column!r} is not empty, and only text can be trained on",
                f"where the text is enough by itself, rename it: `columns: {{unread: {column}}}`",
            )
