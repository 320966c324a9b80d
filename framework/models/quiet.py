"""Other libraries' chatter off, and back as it was."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars while loading and saving, and no warning that is not the user's to heed.

    peft 0.21 asks transformers 5 for `is_gradient_checkpointing`, which warns that it is deprecated
    (https://github.com/huggingface/peft/blob/v0.21.2/src/peft/peft_model.py#L184).
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
