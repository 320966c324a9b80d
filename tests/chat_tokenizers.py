"""Small tokenizers of every kind, encoders for them, and texts to try them with."""

from __future__ import annotations

import functools

from chat_families import CHATML, GEMMA, LLAMA3, MISTRAL_TEMPLATE, byte_level_tokenizer, encoder
from hypothesis import strategies
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEXTS = strategies.text(
    alphabet=strategies.sampled_from("aeinrst \n\t'.,:<|>x0é日👍_"), max_size=12
).filter(lambda text: "<s>" not in text)
FILLED = TEXTS.filter(lambda text: text.strip() != "")


@functools.cache
def sentencepiece_like(scheme: str) -> PreTrainedTokenizerFast:
    """A byte-fallback tokenizer that marks spaces, as Llama 2 and Mistral do."""
    letters = "aeinrst'.,:<|>x0_\n\t"
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *letters, "▁a", "in", "es", "▁t", "▁▁", "er"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    merges = [("▁", "a"), ("i", "n"), ("e", "s"), ("▁", "t"), ("▁", "▁"), ("e", "r")]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    strip = decoders.Strip(" ", 1, 0)
    if scheme == "normalizer":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    tokenizer.add_special_tokens([AddedToken("<s>"), AddedToken("</s>"), AddedToken("[INST]")])
    tokenizer.add_special_tokens([AddedToken("<|end|>", rstrip=True, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@functools.cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    special = (*CHATML, *LLAMA3, *GEMMA)
    if kind in {"together", "apart"}:
        return byte_level_tokenizer(special, "</s>", "<s>", together=kind == "together")
    return sentencepiece_like(kind)


TOKENIZERS = ("together", "apart", "first", "always", "normalizer")
TEMPLATES = {
    "alpaca": "</s>",
    "chatml": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "vicuna": "</s>",
    MISTRAL_TEMPLATE: "</s>",
}


@functools.cache
def chat_of(kind: str, template: str, turns: str):
    return encoder(tokenizer_of(kind), template, turns=turns)
