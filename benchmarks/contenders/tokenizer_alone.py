"""FOLDER -> nothing but the `tokenizers` library on the same rendered text, one text at a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import measure
from tokenizers import Tokenizer

folder = Path(sys.argv[1])
tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
texts = []
with (folder / "rows.jsonl").open(encoding="utf-8") as stream:
    for line in stream:
        row = json.loads(line)
        request = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
        texts.append(
            f"<|im_start|>user\n{request}<|im_end|>\n"
            f"<|im_start|>assistant\n{row['output']}<|im_end|>\n"
        )
with measure.measured() as result:
    for first in range(0, len(texts), 1000):
        batch = tokenizer.encode_batch_fast(texts[first : first + 1000], add_special_tokens=False)
        result.num_tokens += sum(len(one.ids) for one in batch)
    result.num_rows = len(texts)
