"""Low-rank matrices are trained beside frozen weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from framework.core.problems import Problem, UserError, did_you_mean
from framework.core.settings import setting

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe

Initialisation = Literal["default", "gaussian", "olora", "pissa", "orthogonal", "random"]
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "lm_head")
"""What the input and output embeddings are called in the models that transformers has."""


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Trains low-rank matrices beside frozen weights (LoRA, Hu et al. 2021).

    Patterns are regular expressions unless they are lists of names; a name stands for every module
    whose path ends with it.
    """

    trains_all_weights: ClassVar[bool] = False

    r: int = setting(16, at_least=1)
    """Rank of the update."""
    lora_alpha: int = setting(32, at_least=1)
    """The update is scaled by `lora_alpha / r`."""
    lora_dropout: float = setting(0.0, at_least=0, below=1)
    """Dropout of the update's input."""
    target_modules: str | tuple[str, ...] = setting("all-linear", not_empty=True)
    """Modules that get an update: names, one pattern, or `all-linear` for every linear layer but
    the output layer."""
    exclude_modules: str | tuple[str, ...] | None = setting(None, not_empty=True)
    """Names, or one pattern, of target modules that get none after all."""
    target_parameters: tuple[str, ...] = ()
    """Parameters that get an update though no linear layer holds them, such as the experts of a
    mixture: `mlp.experts.gate_up_proj`."""
    use_rslora: bool = False
    """Scale by `lora_alpha / sqrt(r)` instead, which keeps high ranks stable."""
    use_dora: bool = False
    """Train magnitude and direction of each column apart (DoRA): slower, better at low ranks."""
    init_lora_weights: Initialisation = "default"
    """How the matrices start. `default`, `gaussian`: the update is zero. `pissa`, `olora`: from the
    weight's own decomposition, taken out of the frozen weight. `orthogonal`: orthogonal matrices.
    `random`: not zero, for debugging."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Other ranks for some modules: `{pattern: r}`."""
    alpha_pattern: dict[str, int] = field(default_factory=dict)
    """Other `lora_alpha` for some modules: `{pattern: lora_alpha}`."""
    layers_to_transform: tuple[int, ...] | None = setting(None, not_empty=True)
    """Numbers of the only layers that get an update, from 0; needs names in `target_modules`."""
    layers_pattern: str | None = setting(None, not_empty=True)
    """Name of the list of layers, where it is none of the usual ones."""
    modules_to_save: tuple[str, ...] = ()
    """Names of modules trained in full beside the update, such as `[embed_tokens, lm_head]`."""
    trainable_token_indices: tuple[int, ...] = ()
    """Ids of tokens whose embedding rows are trained, alone of all rows."""
    ensure_weight_tying: bool = True
    """Train input and output embeddings as one where the model has tied them."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which existing biases are trained: none, all, or those of the target modules."""
    fan_in_fan_out: bool = False
    """Weights are stored as (in, out), as in GPT-2."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings that contradict each other or the rest of the recipe."""
        yield from self._check_patterns()
        yield from self._check_layers()
        yield from self._check_variants()
        added = recipe.tokenizer.add_tokens
        if added and not self._trains_embeddings():
            yield Problem(
                key="adapter.modules_to_save",
                what=f"tokenizer.add_tokens adds {len(added)} tokens, "
                "but LoRA leaves their embeddings frozen",
                hint="write `modules_to_save: [embed_tokens, lm_head]`",
            )

    def _check_patterns(self) -> Iterator[Problem]:
        patterns = {
            **{f"adapter.rank_pattern[{name!r}]": name for name in self.rank_pattern},
            **{f"adapter.alpha_pattern[{name!r}]": name for name in self.alpha_pattern},
        }
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, str):
                patterns[f"adapter.{name}"] = value
        for key, pattern in patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                yield Problem(
                    key=key,
                    what=f"{pattern!r} is not a regular expression: {error}",
                    hint="write a pattern such as `.*q_proj`, or names in a list: [q_proj, v_proj]",
                )
        for name in ("rank_pattern", "alpha_pattern"):
            for pattern, value in getattr(self, name).items():
                if value < 1:
                    yield Problem(
                        key=f"adapter.{name}[{pattern!r}]",
                        what=f"must be at least 1, is {value}",
                        hint="leave modules without an update out with `exclude_modules`",
                    )

    def _check_layers(self) -> Iterator[Problem]:
        if self.layers_pattern is not None and self.layers_to_transform is None:
            yield Problem(
                key="adapter.layers_pattern",
                what="says where layers are, but no layers are chosen",
                hint="write `layers_to_transform: [0, 1]`, or leave out `layers_pattern`",
            )
        if self.layers_to_transform is None:
            return
        if isinstance(self.target_modules, str):
            yield Problem(
                key="adapter.layers_to_transform",
                what=f"works with a list of names, not with target_modules {self.target_modules!r}",
                hint="write `target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
                "down_proj]`",
            )
        if min(self.layers_to_transform) < 0:
            yield Problem(
                key="adapter.layers_to_transform",
                what=f"layers are counted from 0, is {min(self.layers_to_transform)}",
                hint="write the layers' own numbers",
            )

    def _check_variants(self) -> Iterator[Problem]:
        if self.init_lora_weights == "orthogonal" and self.r % 2:
            yield Problem(
                key="adapter.r",
                what=f"must be even for `init_lora_weights: orthogonal`, is {self.r}",
                hint=f"write `r: {self.r + 1}`",
            )
        if self.target_parameters and self.lora_dropout:
            yield Problem(
                key="adapter.lora_dropout",
                what="can't be used with target_parameters",
                hint="write `lora_dropout: 0.0`",
            )

    def apply(self, model: PreTrainedModel) -> Module:
        """The model with its update beside it, in float32 even where the weights are 16-bit.

        Raises:
            UserError: a name or pattern fits no module of this model.
        """
        from peft import get_peft_model

        problems = tuple(self._unmatched(model))
        if problems:
            raise UserError(problems)
        is_tied = bool(model.config.tie_word_embeddings) and self._trains_embeddings()
        try:
            config = self._config(ties_embeddings=self.ensure_weight_tying and is_tied)
            return get_peft_model(model, config, autocast_adapter_dtype=True)
        except (ValueError, TypeError, NotImplementedError, KeyError) as error:
            raise UserError(
                Problem(
                    key="adapter",
                    what=f"LoRA can't be applied to {type(model).__name__}: {error}",
                    hint=f"its linear layers are: {', '.join(_linear_names(model))}",
                )
            ) from error

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with the update added to its weights.

        Raises:
            UserError: the update holds NaN or infinity.
        """
        from peft import PeftModel

        assert isinstance(model, PeftModel), type(model).__name__
        try:
            return model.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise UserError(
                f"the adapter can't be merged: {error}",
                hint="its weights are not finite; take an earlier checkpoint",
            ) from error

    def _config(self, *, ties_embeddings: bool) -> LoraConfig:
        from peft import LoraConfig

        start: Any = {"default": True, "random": False}.get(
            self.init_lora_weights, self.init_lora_weights
        )
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=_as_peft(self.target_modules),
            exclude_modules=_as_peft(self.exclude_modules),
            target_parameters=list(self.target_parameters) or None,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            init_lora_weights=start,
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=dict(self.alpha_pattern),
            layers_to_transform=_as_peft(self.layers_to_transform),
            layers_pattern=self.layers_pattern,
            modules_to_save=list(self.modules_to_save) or None,
            trainable_token_indices=list(self.trainable_token_indices) or None,
            ensure_weight_tying=ties_embeddings,
            bias=self.bias,
            fan_in_fan_out=self.fan_in_fan_out,
        )

    def _trains_embeddings(self) -> bool:
        """Whether rows of the embeddings are trained, going by the names they have."""
        names = (*self.modules_to_save, *_as_tuple(self.target_modules))
        named = any(name.rpartition(".")[2] in EMBEDDINGS for name in names)
        return named or bool(self.trainable_token_indices)

    def _unmatched(self, model: PreTrainedModel) -> Iterator[Problem]:
        """Every name and pattern that fits nothing in the model."""
        modules = [name for name, _ in model.named_modules() if name]
        parameters = [name for name, _ in model.named_parameters()]
        linear = _linear_names(model)
        wanted = {
            "target_modules": () if self.target_modules == "all-linear" else self.target_modules,
            "exclude_modules": self.exclude_modules or (),
            "modules_to_save": self.modules_to_save,
        }
        for key, value in wanted.items():
            for pattern in _as_tuple(value):
                fits = re.compile(pattern).fullmatch if isinstance(value, str) else _ends(pattern)
                if not any(fits(name) for name in modules):
                    yield _nothing_fits(key, pattern, linear)
        for key, patterns in (
            ("rank_pattern", self.rank_pattern),
            ("alpha_pattern", self.alpha_pattern),
        ):
            for pattern in patterns:
                fits = re.compile(rf"(.*\.)?({pattern})").fullmatch
                if not any(fits(name) for name in modules):
                    yield _nothing_fits(key, pattern, linear)
        for pattern in self.target_parameters:
            if not any(_ends(pattern)(name) for name in parameters):
                yield _nothing_fits("target_parameters", pattern, linear)
        num_layers = model.config.get_text_config().num_hidden_layers
        for layer in self.layers_to_transform or ():
            if layer >= num_layers:
                yield Problem(
                    key="adapter.layers_to_transform",
                    what=f"there is no layer {layer}",
                    hint=f"the model's layers are 0 to {num_layers - 1}",
                )


def _as_tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _as_peft(value: Any) -> Any:
    """Lists in place of tuples, which peft does not take."""
    return list(value) if isinstance(value, tuple) else value


def _ends(name: str) -> Callable[[str], bool]:
    """Whether a module's path is `name` or ends with it, as peft matches names in a list."""
    return lambda path: path == name or path.endswith(f".{name}")


def _linear_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Last parts of the paths of the model's linear layers."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    layers = (name for name, module in model.named_modules() if isinstance(module, Linear | Conv1D))
    return tuple(sorted({name.rpartition(".")[2] for name in layers}))


def _nothing_fits(key: str, pattern: str, available: tuple[str, ...]) -> Problem:
    near = did_you_mean(pattern.rpartition(".")[2], available)
    listed = f"the model's linear layers are: {', '.join(available)}"
    return Problem(
        key=f"adapter.{key}",
        what=f"{pattern!r} fits no module of the model",
        hint=f"{near} {listed}" if near.startswith("did") else listed,
    )
