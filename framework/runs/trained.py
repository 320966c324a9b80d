"""A run's folder -> the model that it trained, or the one that it started from."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.core.consent import granted
from framework.core.heads import Head, head_of
from framework.core.problems import Problem, Refused, UserError, reading
from framework.core.protocols.models import Loading
from framework.models.folder import endless_files
from framework.models.quiet import quiet
from framework.recipe.resolve import RESOLVED, resolve_run
from framework.runs.model_files import LOCK, changed_base_files, way_back

if TYPE_CHECKING:
    from torch import dtype as torch_dtype
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from framework.core.protocols.models import Quantizer
    from framework.recipe.schema import Recipe, RopeScaling


@dataclass(frozen=True)
class FinishedRun:
    """A run directory with its `final/` folder."""

    path: Path
    allowed_environment: Sequence[str] = ()
    """Variables that its recipe may read, and send to the Hub as a token."""

    @staticmethod
    def open(path: Path, allowed_environment: Sequence[str] = ()) -> FinishedRun:
        """
        Args:
            allowed_environment: see the field.

        Raises:
            UserError: it is no run directory, or the run is not finished.
        """
        if not (path / RESOLVED).is_file():
            raise UserError(
                Problem(
                    file=str(path),
                    what=f"is not a run directory: it holds no {RESOLVED}",
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
        endless = [*endless_files(path), *endless_files(path / "final")]
        if endless:
            raise UserError(endless)
        return FinishedRun(path, allowed_environment)

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The recipe that was run."""
        return resolve_run(self.path, (), self.allowed_environment).recipe

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

        with reading(self.final, "a tokenizer"):
            return AutoTokenizer.from_pretrained(
                self.final, local_files_only=True, trust_remote_code=False
            )

    def end_token_ids(self) -> list[int]:
        """Tokens at which an answer is over."""
        path = self.final / "generation_config.json"
        with reading(path, "the tokens that end an answer"):
            written = json.loads(path.read_text(encoding="utf-8"))["eos_token_id"]
            return [int(one) for one in (written if isinstance(written, list) else [written])]

    @functools.cached_property
    def model_path(self) -> Path:
        """Folder of the model that training started from."""
        with granted((), self.allowed_environment):
            return self.recipe.model.source.fetch()

    @functools.cached_property
    def head(self) -> Head | None:
        """What the model gives numbers with; None for a language model."""
        return head_of(self.recipe)

    @functools.cached_property
    def quantizer(self) -> Quantizer | None:
        """What held that model's weights in few bits."""
        from framework.recipe.quantization import quantizer_of

        return quantizer_of(self.recipe, self.model_path)

    @functools.cached_property
    def _planned(self) -> Mapping[str, Any]:
        path = self.path / "plan.json"
        with reading(path, "the dtypes of the run"):
            plan = json.loads(path.read_text(encoding="utf-8"))
            return {name: plan[name] for name in ("weights_dtype", "autocast_dtype")}

    @property
    def computed_in(self) -> torch_dtype:
        """The dtype of the products of the training."""
        from framework.models.load import DTYPES

        return DTYPES[self._planned["autocast_dtype"] or self._planned["weights_dtype"]]

    def base_model(self, dtype: torch_dtype, device: str = "cpu") -> PreTrainedModel:
        """The model that training started from, with embeddings for added tokens.

        Quantised weights are the very ones that were trained over.

        Raises:
            Refused: its files are not those that they were.
        """
        from framework.models.load import DTYPES

        self._refuse_other_base()
        rope = self.recipe.model.rope_scaling
        if self.quantizer is None:
            model = load_plain(self.model_path, dtype, self.head, rope)
        else:
            loaded = DTYPES[self._planned["weights_dtype"]]
            model = load_quantized(self.model_path, self.quantizer, loaded, device, self.head, rope)
        self._fit_to_tokenizer(model)
        if self.quantizer is not None:
            from framework.models.quantized import compute_in

            compute_in(model, self.quantizer, dtype)
        return on(model, device)

    def whole_model(self, dtype: torch_dtype) -> PreTrainedModel:
        """The same with whole weights, as they are before any quantizer."""
        self._refuse_other_base()
        model = load_plain(self.model_path, dtype, self.head, self.recipe.model.rope_scaling)
        self._fit_to_tokenizer(model)
        return model

    def _refuse_other_base(self) -> None:
        """An adapter on other weights than it was trained over would say something else."""
        path = self.path / LOCK
        if not path.is_file():
            return  # Of a combination.
        with reading(path, "what the run was trained over"):
            lock = json.loads(path.read_text(encoding="utf-8"))
            changed = changed_base_files(lock, self.recipe, self.model_path)
        problems = [
            Problem(
                key=one.key,
                what=one.what,
                hint=f"{way_back(lock, one)}; {str(self.path / RESOLVED)!r} says where it is",
            )
            for one in changed
            if one.decides
        ]
        if problems:
            raise Refused(problems)

    def _fit_to_tokenizer(self, model: Any) -> None:
        from framework.models.load import fit_embeddings
        from framework.models.tokenizer import padding_id

        fit_embeddings(model, self.tokenizer, self.recipe.tokenizer.add_tokens)
        if self.head is not None:
            # A sequence classification model is read at its last token that is none of these.
            model.config.pad_token_id = padding_id(self.tokenizer)

    def trained_model(self, dtype: torch_dtype, device: str = "cpu") -> Module:
        """The trained model; an adapter stands on its base, not merged."""
        if self.has_adapter:
            return self.adapted(self.base_model(dtype, device))
        model = load_plain(self.final, dtype, self.head)
        if self.quantizer is not None:
            self.quantizer.prepare(model)
        return on(model, device)

    def adapted(self, model: PreTrainedModel) -> Module:
        """`model` with the trained adapter on it, which changes it in place."""
        from framework.adapting.adapter_folder import with_trained_adapter

        adapter = self.recipe.adapter
        with quiet():
            if isinstance(adapter, Loading):
                with reading(self.final, "the adapter"):
                    return adapter.load(model, self.final)
            return with_trained_adapter(model, self.final)


def load_plain(
    folder: Path,
    dtype: torch_dtype,
    head: Head | None = None,
    rope_scaling: RopeScaling | None = None,
) -> Any:
    """The model in `folder`, without anything of ours, ready to evaluate.

    Args:
        head: None for a language model.
        rope_scaling: positions that the files don't scale.
    """
    from framework.models.heads import auto_class, head_arguments
    from framework.models.rope import rope_arguments

    with quiet(), reading(folder, "a model"):
        model = auto_class(head).from_pretrained(
            folder,
            **head_arguments(head),
            **rope_arguments(folder, rope_scaling),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    return model.eval()


def load_quantized(
    folder: Path,
    quantizer: Quantizer,
    dtype: torch_dtype,
    device: str = "cpu",
    head: Head | None = None,
    rope_scaling: RopeScaling | None = None,
) -> PreTrainedModel:
    """`load_plain`, with weights that are quantised from, and stand beside others of, `dtype`."""
    from framework.models.heads import auto_class, head_arguments
    from framework.models.quantized import loading_arguments
    from framework.models.rope import rope_arguments

    computed = str(dtype).removeprefix("torch.")
    with quiet(), reading(folder, "a model"):
        model = auto_class(head).from_pretrained(
            folder,
            **head_arguments(head),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **loading_arguments(quantizer, folder, computed, device),
            **rope_arguments(folder, rope_scaling),
        )
    quantizer.prepare(model)
    return model.eval()


def on(model: Any, device: str) -> Any:
    """The model, on that device."""
    return model if str(model.device) == device else model.to(device)
