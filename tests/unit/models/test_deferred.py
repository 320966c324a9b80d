"""A run loads what its recipe needs; what is put off is there when it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import framework

UNNEEDED = ("peft", "bitsandbytes", "torch._inductor.compile_fx", "deepspeed")
TOLD = f"sorted(set({UNNEEDED!r}) & set(sys.modules))"
RUN = (
    f"import atexit, sys; atexit.register(lambda: print('LOADED', {TOLD}))\n"
    "from framework.__main__ import main\n"
    "main()\n"
)
QUANTIZED = f"""
import sys
from framework.models.deferred import defer_compilation
defer_compilation()
defer_compilation()
import torch
compile = torch.compile
import bitsandbytes.functional as functional
print({TOLD}, torch.compile is compile)
torch.manual_seed(0)
weight = torch.randn(64, 64)
packed, state = functional.quantize_4bit(weight, quant_type="nf4")
again = functional.dequantize_4bit(packed, state)
print(bool(0 < (again - weight).abs().mean() < 0.1))
"""


def python(code: str, *arguments: object) -> str:
    """Standard output of a fresh interpreter, which has to end well."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(framework.__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_that_trains_all_weights_loads_neither_adapters_nor_quantizers(
    write_recipe, tmp_path
):
    recipe = write_recipe(**{"adapter.type": "full", "trainer.max_steps": 1})
    said = python(RUN, "train", recipe)
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    assert said.splitlines()[-1] == "LOADED []"


def test_bitsandbytes_is_what_it_is_but_for_functions_that_nobody_has_called_yet():
    assert python(QUANTIZED).splitlines() == ["['bitsandbytes'] True", "True"]
