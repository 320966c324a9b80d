"""JOB -> the `tokenizers` library alone on the same rendered text: no files, masks or packs."""

from __future__ import annotations

from pathlib import Path

from protocol import measured, read_job, read_rows
from tokenizers import Tokenizer

PACKAGES = ("tokenizers",)

job = read_job()
texts = []
for row in read_rows(job):
    request = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
    texts.append(
        f"<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n{row['output']}<|im_end|>\n"
    )
with measured(PACKAGES) as work:
    tokenizer = Tokenizer.from_file(str(Path(job.model) / "tokenizer.json"))
    for first in range(0, len(texts), 1000):
        batch = tokenizer.encode_batch_fast(texts[first : first + 1000], add_special_tokens=False)
        work.num_tokens += sum(len(one.ids) for one in batch)
    work.num_rows = len(texts)
