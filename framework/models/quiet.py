"""Other libraries' chatter off, and back as it was."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

IGNORED = (
    ".*is_gradient_checkpointing.*",
    "`gradient_checkpointing_enable` is deprecated.*",
    "Failed to load the CUDA extension.*",
    "Setting boft_n_butterfly_factor.*",
    "Unsupported layer type.*",
    ".*rank_pattern keys did not match.*lora_E.*",
)

IMPORT_CHATTER = {
    "torchao": "Failed to load",
    "torch.utils._pytree": "%s is an Enum subclass",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "DeepSpeed": "Setting accelerator to CPU",
}
"""Logger -> start of what it says on import about kernels that nothing here asks for: torchao 0.18
tries those of GPUs and other Pythons, bitsandbytes 0.50 one of the package `kernels`; DeepSpeed
says on standard output that there is no GPU."""


def quiet_imports() -> None:
    """Libraries no longer warn, when they are imported, of what is not the user's to heed.

    PyTorch's C++ code tells every broken connection with its stack; whoever notices it tells it.
    Its profiler says when it starts and stops, on a level that has no name.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    for name, start in IMPORT_CHATTER.items():
        logging.getLogger(name).addFilter(
            lambda record, start=start: not str(record.msg).startswith(start)
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars while loading and saving, and no warning that is not the user's to heed.

    peft 0.21 asks transformers 5 for `is_gradient_checkpointing`, which warns that it is deprecated
    (https://github.com/huggingface/peft/blob/v0.21.2/src/peft/peft_model.py#L184), says of BOFT's
    kernel that it is not there, which matters only where the recipe needs it and is refused then,
    of normalisation layers that it doesn't know them, whose copies are the same class, and of
    AdaLoRA's ranks that LoRA has no such layers. transformers 5 says that
    `gradient_checkpointing_enable` ends with version 6, which is not allowed here.
    """
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for message in IGNORED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
