"""A pretrained model judges over HTTP, and its scores are its own next-token probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ChatServer, read_rows, write_rows
from jinja2 import Template

from framework.cleaners.judge import RUBRIC
from framework.data.prepared import prepare_data
from framework.recipe.resolve import resolve

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart" / "lora.yaml"
REPLY = "Reply with the number of the score alone."
PAIRS = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of France?", "qwx zzv bananas train train"),
    ("How many legs does a dog have?", "A dog has four legs."),
    ("How many legs does a dog have?", "No."),
    ("Name three colours.", "Red, green and blue."),
    ("Name three colours.", "I will not say, and you can't make me."),
]


def expected_scores(folder: Path) -> list[float]:
    """Straight from the model: no server and no client."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    scores = []
    for question, answer in PAIRS:
        asked = Template(RUBRIC).render(prompt=f"user: {question}", answer=answer).rstrip()
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{asked}\n\n{REPLY}"}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"]
        with torch.inference_mode():
            likeliest = model(ids).logits[0, -1].softmax(-1).topk(20)
        weights = dict.fromkeys("12345", 0.0)
        for share, token in zip(likeliest.values, likeliest.indices, strict=True):
            text = tokenizer.decode([int(token)]).strip()
            if text in weights:
                weights[text] += float(share)
        total = sum(weights.values())
        scores.append(sum(int(digit) * share for digit, share in weights.items()) / total)
    return scores


@pytest.mark.long
def test_the_scores_are_the_models_own_and_the_threshold_parts_the_rows(tmp_path):
    write_rows(
        tmp_path / "train.jsonl",
        [
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
            for q, a in PAIRS
        ],
    )
    folder = resolve(QUICKSTART).model.source.fetch()
    expected = expected_scores(folder)
    assert max(expected) - min(expected) > 0.1
    threshold = sorted(expected)[3] - 1e-3
    server = ChatServer(folder)
    try:
        (tmp_path / "recipe.yaml").write_text(f"""\
extends: {QUICKSTART}
data:
  train: [{{source: train.jsonl}}]
  cleaners:
    - type: judge
      answer: probabilities
      threshold: {threshold}
      endpoint: {{base_url: "{server.base_url}", model: smollm2}}
output: {{dir: {tmp_path / "run"}}}
""")
        store = prepare_data(resolve(tmp_path / "recipe.yaml")).train
    finally:
        server.stop()
    (counts,) = store.details["cleaners"]
    listed = read_rows(store.folder / counts["file"])
    print([(round(score, 2), pair) for score, pair in zip(expected, PAIRS, strict=True)])
    # Float32 sums of one row and of a batch of one, in two processes.
    assert [row["score"] for row in listed] == pytest.approx(expected, abs=1e-3)
    kept = [f"train0:{n}" for n, score in enumerate(expected, start=1) if score >= threshold]
    assert [store.sample_id(index) for index in range(store.num_samples)] == kept
    assert len(kept) == 3
