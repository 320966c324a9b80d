"""Low-rank matrices are trained beside frozen weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from framework.adapting.adapted import adapted, merged
from framework.adapting.targets import (
    PATH,
    as_peft,
    as_tuple,
    ends_with,
    fitting_part,
    in_setting,
    linear_names,
    module_paths,
    name_embeddings,
    name_exactly,
    nothing_fits,
    unmatched,
    unreadable_pattern,
    unreadable_patterns,
    untrained_tokens,
)
from framework.adapting.trained_adapter import TrainedAdapter, put_into
from framework.core.problems import Problem, UserError
from framework.core.protocols.models import Surroundings
from framework.core.protocols.training import Online
from framework.core.settings import setting
from framework.recipe.without_effect import unused_settings

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe

Initialisation = Literal[
    "default",
    "gaussian",
    "olora",
    "pissa",
    "corda",
    "lora_ga",
    "eva",
    "loftq",
    "orthogonal",
    "random",
]
FROM_DATA = ("corda", "eva", "lora_ga")
"""Starts that look at training data."""
TAKEN_OUT = ("corda", "lora_ga", "olora", "pissa")
"""Starts that are taken out of the frozen weights, so that the sum is the model as it was."""
DECIDING = (
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "bias",
)
"""Settings without which the weights of a trained adapter mean something else."""


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Trains low-rank matrices beside frozen weights (LoRA, Hu et al. 2021).

    Patterns are regular expressions unless they are lists of names; a name stands for every module
    whose path ends with it.
    """

    trains_all_weights: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = frozenset(
        {"bitsandbytes_4bit", "bitsandbytes_8bit", "torchao", "gptq", "awq", "fake_quantized"}
    )

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
    weight's own decomposition, taken out of the frozen weight. `corda`: the same, weighed by what
    training data puts into the layer; `lora_ga`: from the gradient of their loss. `eva`: the update
    is zero, and reads the directions in which the layer's inputs vary most. `loftq`: what
    `model.quantization` took away. `orthogonal`: orthogonal matrices. `random`: not zero, for
    debugging."""
    start_from: str | None = setting(None, path=True, not_empty=True)
    """Folder of a trained LoRA adapter (`runs/first/final`) with which training goes on. It must
    have the rank, scale and modules that stand here, and be one of the same model."""
    init_num_samples: int = setting(256, at_least=1)
    """Samples of the training data that `corda`, `eva` and `lora_ga` look at."""
    corda_method: Literal["ipm", "kpm"] = "ipm"
    """What `corda` starts from: the directions that the data uses (`ipm`, learns best), or those it
    doesn't (`kpm`, forgets least)."""
    eva_rho: float = setting(2.0, at_least=1)
    """How much more rank than `r` a layer may get from `eva`, which takes it from others; 1: all
    have `r`."""
    loraplus_lr_ratio: float | None = setting(None, above=0)
    """Learning rate of the matrices that write the output, as a multiple of the other ones' (LoRA+,
    Hayou et al. 2024): 16 is usual. None: the same."""
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
        yield from self._check_start(recipe)
        start = self.init_lora_weights
        yield from unused_settings(
            self,
            {
                "init_num_samples": (start in FROM_DATA, "init_lora_weights: eva"),
                "corda_method": (start == "corda", "init_lora_weights: corda"),
                "eva_rho": (start == "eva", "init_lora_weights: eva"),
            },
        )
        yield from self._check_trained(recipe)
        if not self._trains_embeddings():
            yield from untrained_tokens(recipe)

    def _check_patterns(self) -> Iterator[Problem]:
        yield from unreadable_patterns(self)
        for name in ("rank_pattern", "alpha_pattern"):
            for pattern, value in vars(self)[name].items():
                yield from unreadable_pattern(f".{name}[{pattern!r}]", pattern)
                if value < 1:
                    yield Problem(
                        key=f".{name}[{pattern!r}]",
                        what=f"must be at least 1, is {value}",
                        hint="leave modules without an update out with `exclude_modules`",
                    )

    def _check_layers(self) -> Iterator[Problem]:
        if self.layers_pattern is not None and self.layers_to_transform is None:
            yield Problem(
                key=".layers_pattern",
                what="says where layers are, but no layers are chosen",
                hint="write `layers_to_transform: [0, 1]`, or leave out `layers_pattern`",
            )
        if self.layers_pattern is not None and not PATH.fullmatch(self.layers_pattern):
            yield Problem(
                key=".layers_pattern",
                what=f"{self.layers_pattern!r} is not the name of a list of layers",
                hint="write its name, such as `layers`",
            )
        if self.layers_to_transform is None:
            return
        if isinstance(self.target_modules, str):
            yield Problem(
                key=".layers_to_transform",
                what=f"works with a list of names, not with target_modules {self.target_modules!r}",
                hint="write `target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
                "down_proj]`",
            )
        if min(self.layers_to_transform) < 0:
            yield Problem(
                key=".layers_to_transform",
                what=f"layers are counted from 0, is {min(self.layers_to_transform)}",
                hint="write the layers' own numbers",
            )

    def _check_variants(self) -> Iterator[Problem]:
        if self.init_lora_weights == "orthogonal" and self.r % 2:
            yield Problem(
                key=".r",
                what=f"must be even for `init_lora_weights: orthogonal`, is {self.r}",
                hint=f"write `r: {self.r + 1}`",
            )
        if self.target_parameters and self.lora_dropout:
            yield Problem(
                key=".lora_dropout",
                what="can't be used with target_parameters",
                hint="write `lora_dropout: 0.0`",
            )

    def _check_start(self, recipe: Recipe) -> Iterator[Problem]:
        start, method = self.init_lora_weights, recipe.trainer.method
        held = recipe.model.quantization
        if self.use_dora and held is not None and held.layers == "bitsandbytes_8bit":
            yield Problem(
                key=".use_dora",
                what="needs the lengths of weights, and asking bitsandbytes for those of 8-bit "
                "ones takes their scales away",
                hint="write use_dora: false, or quantization: bitsandbytes_4bit",
            )
        if start == "loftq" and (held is None or not held.freezes_weights):
            yield Problem(
                key=".init_lora_weights",
                what="`loftq` makes up for quantised weights, and there are none",
                hint="write `model: {quantization: bitsandbytes_4bit}`",
            )
        if start in TAKEN_OUT and held is not None:
            yield Problem(
                key=".init_lora_weights",
                what=f"`{start}` is taken out of the weights, and quantised ones can't be changed",
                hint="write `init_lora_weights: loftq`",
            )
        if start in FROM_DATA and isinstance(method, Online):
            yield Problem(
                key=".init_lora_weights",
                what=f"`{start}` looks at answers in the data, and this trainer's has none",
                hint="write `init_lora_weights: default`",
            )
        if self.target_parameters and start in (*TAKEN_OUT, *FROM_DATA, "loftq"):
            yield Problem(
                key=".init_lora_weights",
                what=f"`{start}` can't be used with target_parameters",
                hint="write `init_lora_weights: default`",
            )
        if self.use_dora and start == "loftq":
            yield Problem(
                key=".use_dora",
                what="measures the weights before `loftq` makes up for what they lost",
                hint="write `use_dora: false`",
            )

    def _check_trained(self, recipe: Recipe) -> Iterator[Problem]:
        if self.start_from is None:
            return
        if self.init_lora_weights != "default":
            yield Problem(
                key=".init_lora_weights",
                what=f"`{self.init_lora_weights}` is a start, and start_from is another",
                hint="leave out one of them",
            )
        try:
            trained = TrainedAdapter.open(Path(self.start_from), ".start_from")
        except UserError as error:
            yield from error.problems
            return
        yield from trained.differing({name: vars(self)[name] for name in DECIDING})
        if not self.target_parameters:
            yield from trained.elsewhere(self.target_modules, self.exclude_modules or ())
        other_base = trained.other_base(recipe.model.source, ".start_from")
        if other_base is not None:
            yield other_base

    def started_from(self) -> tuple[Path, ...]:
        """The trained adapter's folder, if there is one."""
        return () if self.start_from is None else (Path(self.start_from),)

    def num_first_samples(self) -> int:
        """How many samples of the training data it looks at."""
        return self.init_num_samples if self.init_lora_weights in FROM_DATA else 0

    def learning_rate_ratio(self, name: str) -> float:
        """LoRA+: faster matrices that write the output."""
        writes = "lora_B" in name or "lora_embedding_B" in name
        return self.loraplus_lr_ratio if writes and self.loraplus_lr_ratio else 1.0

    def alters_weights(self) -> bool:
        """Whether the model without the adapter is another one than training began with."""
        changed = self.init_lora_weights in (*TAKEN_OUT, "loftq") or self.bias != "none"
        return changed or self.start_from is not None

    def apply(self, model: PreTrainedModel) -> Module:
        """The model with its update beside it, in float32 even where the weights are 16-bit.

        Raises:
            UserError: a name or pattern fits no module of this model.
        """
        folder = Path(str(model.name_or_path))
        return self.apply_within(model, Surroundings(batches=(), quantizer=None, folder=folder))

    def apply_within(self, model: PreTrainedModel, around: Surroundings) -> Module:
        """The same, with a start that looks at data or at what quantisation lost.

        Raises:
            UserError: see `apply`, or there is too little data.
        """
        from framework.adapting import lora_start

        start = self.init_lora_weights
        assert around.batches or start not in FROM_DATA, start
        problems = tuple(self._unmatched(model))
        if problems:
            raise UserError(problems)
        is_tied = bool(model.config.tie_word_embeddings) and self._trains_embeddings()
        config = self._config(ties_embeddings=self.ensure_weight_tying and is_tied)
        name_exactly(config, module_paths(model))
        if start == "corda":
            lora_start.look_at_inputs(model, config, around.batches)
        if start == "lora_ga":
            lora_start.look_at_gradients(model, config, around.batches)
        trained = adapted(model, config, self)
        if start == "eva":
            lora_start.start_in_activations(trained, around.batches)
        if start == "loftq":
            assert around.quantizer is not None
            lora_start.start_at_quantization_error(trained, around.quantizer, around.folder)
        if start in TAKEN_OUT:
            lora_start.keep_start(trained)
        for trained_folder in self.started_from():
            put_into(trained, lora_start.ADAPTER, trained_folder, "adapter.start_from")
        return trained

    def starting_plain(self) -> LoRA:
        """The same matrices, starting as in most runs."""
        return replace(self, init_lora_weights="default")

    def save(self, model: Module, folder: Path) -> None:
        """The adapter, for the model as it was before training."""
        from peft import PeftModel

        from framework.adapting.lora_start import save_change

        assert isinstance(model, PeftModel), type(model).__name__
        if self.init_lora_weights in TAKEN_OUT:
            save_change(model, folder)
        else:
            model.save_pretrained(str(folder), safe_serialization=True)

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with the update added to its weights.

        Raises:
            UserError: the update holds NaN or infinity.
        """
        return merged(model)

    def _config(self, *, ties_embeddings: bool) -> LoraConfig:
        from peft import EvaConfig, LoraConfig
        from peft.tuners.lora.config import CordaConfig, LoraGAConfig

        name = self.init_lora_weights
        # peft's own LoftQ needs weights that are not quantised yet, or a GPU.
        start: Any = {"default": True, "loftq": True, "random": False}.get(name, name)
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=as_peft(self.target_modules),
            exclude_modules=as_peft(self.exclude_modules),
            target_parameters=as_peft(self.target_parameters),
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            init_lora_weights=start,
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=dict(self.alpha_pattern),
            layers_to_transform=as_peft(self.layers_to_transform),
            layers_pattern=self.layers_pattern,
            modules_to_save=as_peft(self.modules_to_save),
            trainable_token_indices=as_peft(self.trainable_token_indices),
            ensure_weight_tying=ties_embeddings,
            bias=self.bias,
            fan_in_fan_out=self.fan_in_fan_out,
            eva_config=EvaConfig(rho=self.eva_rho) if name == "eva" else None,
            corda_config=CordaConfig(corda_method=self.corda_method) if name == "corda" else None,
            lora_ga_config=LoraGAConfig() if name == "lora_ga" else None,
        )

    def _trains_embeddings(self) -> bool:
        """Whether rows of the embeddings are trained, going by the names they have."""
        named = name_embeddings((*self.modules_to_save, *as_tuple(self.target_modules)))
        return named or bool(self.trainable_token_indices)

    def _unmatched(self, model: PreTrainedModel) -> Iterator[Problem]:
        """Every pattern of single modules, parameter and layer that the model doesn't have."""
        modules = module_paths(model)
        parameters = [name for name, _ in model.named_parameters()]
        linear = linear_names(model)
        yield from unmatched(model, self)
        for key in ("rank_pattern", "alpha_pattern"):
            for pattern in vars(self)[key]:
                with in_setting(key):
                    fits = fitting_part(pattern, modules)
                if not fits:
                    yield nothing_fits(key, pattern, linear)
        for pattern in self.target_parameters:
            if not any(map(ends_with(pattern), parameters)):
                yield nothing_fits("target_parameters", pattern, linear)
        num_layers = model.config.get_text_config().num_hidden_layers
        for layer in self.layers_to_transform or ():
            if layer >= num_layers:
                yield Problem(
                    key="adapter.layers_to_transform",
                    what=f"there is no layer {layer}",
                    hint=f"the model's layers are 0 to {num_layers - 1}",
                )
