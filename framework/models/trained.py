"""A run's folder -> the model that it trained, or the one that it started from."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.core.problems import Problem, UserError
from framework.models.quiet import quiet
from framework.recipe.resolve import resolve

if TYPE_CHECKING:
    from torch import dtype as torch_dtype
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from framework.recipe.schema import Recipe


@dataclass(frozen=True)
class FinishedRun:
    """A run directory with its `final/` folder."""

    path: Path

    @staticmethod
    def open(path: Path) -> FinishedRun:
        """
        Raises:
            UserError: it is no run directory, or the run is not finished.
        """
        if not (path / "resolved.yaml").is_file():
            raise UserError(
                Problem(
                    file=str(path),
                    what="is not a run directory: it holds no resolved.yaml",
                    hint="give the `output.dir` of a recipe that was trained",
                )
            )
        if not (path / "final").is_dir():
            raise UserError(
                Problem(
                    file=str(path),
                    what="the run is not finished: it holds no final/",
                    hint="start its recipe again to go on",
                )
            )
        return FinishedRun(path)

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The recipe that was run."""
        return resolve(self.path / "resolved.yaml")

    @property
    def final(self) -> Path:
        """The trained adapter or model."""
        return self.path / "final"

    @property
    def has_adapter(self) -> bool:
        """Whether `final/` holds an adapter rather than a whole model."""
        return (self.final / "adapter_config.json").is_file()

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that was trained with, chat template included."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.final, local_files_only=True)

    def end_token_ids(self) -> list[int]:
        """Tokens at which an answer is over."""
        written = (self.final / "generation_config.json").read_text(encoding="utf-8")
        return json.loads(written)["eos_token_id"]

    def base_model(self, dtype: torch_dtype) -> PreTrainedModel:
        """The model that training started from, with embeddings for added tokens."""
        from framework.models.load import fit_embeddings

        model = load_plain(self.recipe.model.source.fetch(), dtype)
        fit_embeddings(model, self.tokenizer, self.recipe.tokenizer.add_tokens)
        return model

    def trained_model(self, dtype: torch_dtype) -> Module:
        """The trained model; an adapter stands on its base, not merged."""
        if not self.has_adapter:
            return load_plain(self.final, dtype)
        from peft import PeftModel

        with quiet():
            return PeftModel.from_pretrained(self.base_model(dtype), str(self.final))


def load_plain(folder: Path, dtype: torch_dtype) -> Any:
    """The causal language model in `folder`, without anything of ours, ready to evaluate."""
    from transformers import AutoModelForCausalLM

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    return model.eval()
