"""TRL's GRPO and RLOO -> learners: our loop, data and answers, their advantages and losses.

What is TRL's own and not promised to stay is used in this file alone, and holds for trl 1.16:
`_tokenize_prompts`, `_generate_single_turn`, `_generate_and_score_completions`, `beta`, `ref_model`
(https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/grpo_trainer.py and rloo_trainer.py).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.utils import add_fused_lm_head, split_tensor_dict

from framework.attention.attention import reads_boundaries
from framework.core.problems import Problem, UserError
from framework.core.rollouts import Answer, Prompt
from framework.models.policy import plain_model
from framework.models.precision import autocast
from framework.models.quiet import quiet
from framework.online.bench import Workbench
from framework.online.sampling import Sampler, answer_of

if TYPE_CHECKING:
    from framework.trainers.grpo import GRPO
    from framework.trainers.rloo import RLOO

_METRICS = {
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clip_ratio",
    "cispo_clip_ratio": "clip_ratio",
    "vespo/phi_seq_mean": "mean_weight",
    "aux_loss": "router_loss",
    "sampling/sampling_logp_difference/mean": "sampling_logp_difference",
}
"""TRL's name of a metric -> ours; the others are ours already, or say the same again."""


def grpo_learner(method: GRPO, bench: Workbench) -> TRLLearner:
    """TRL's GRPO with the recipe's settings."""
    own = (
        "loss_type",
        "importance_sampling_level",
        "epsilon",
        "epsilon_high",
        "delta",
        "scale_rewards",
        "multi_objective_aggregation",
        "mask_truncated_completions",
        "top_entropy_quantile",
        "entropy_coef",
        "off_policy_mask_threshold",
        "use_bias_correction_kl",
        "sapo_temperature_pos",
        "sapo_temperature_neg",
        "vespo_k_pos",
        "vespo_lambda_pos",
        "vespo_k_neg",
        "vespo_lambda_neg",
    )
    settings = {name: vars(method)[name] for name in own}
    if method.vllm is not None:
        corrected = method.vllm.importance_sampling_correction
        settings["vllm_importance_sampling_correction"] = corrected
    arguments = GRPOConfig(**_arguments(method, bench), **settings)
    return TRLLearner(method, bench, _GRPO, arguments)


def rloo_learner(method: RLOO, bench: Workbench) -> TRLLearner:
    """TRL's RLOO with the recipe's settings."""
    bounds: Any = method.reward_clip_range or None
    arguments = RLOOConfig(
        **_arguments(method, bench),
        epsilon=method.epsilon,
        epsilon_high=method.epsilon_high,
        normalize_advantages=method.normalize_advantages,
        reward_clip_range=bounds,
        mask_truncated_completions=method.mask_truncated_completions,
    )
    return TRLLearner(method, bench, _RLOO, arguments)


class _GRPO(GRPOTrainer):
    """Asks with our tokens, and answers with our sampler unless vLLM does."""

    ask: Callable[[], list[list[int]]]
    answer: Callable[[], list[list[int]]]

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.ask(), None, {}

    def _generate_single_turn(self, *arguments: Any, **settings: Any) -> Any:
        if self.use_vllm:
            return super()._generate_single_turn(*arguments, **settings)
        return self.answer(), None


class _RLOO(RLOOTrainer):
    """The same for RLOO."""

    ask: Callable[[], list[list[int]]]
    answer: Callable[[], list[list[int]]]

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.ask(), None, {}

    def _generate_single_turn(self, *arguments: Any, **settings: Any) -> Any:
        if self.use_vllm:
            return super()._generate_single_turn(*arguments, **settings)
        return self.answer()


class TRLLearner:
    """Implements `rollouts.Learner`."""

    def __init__(
        self,
        method: GRPO | RLOO,
        bench: Workbench,
        trainer: type[_GRPO | _RLOO],
        arguments: Any,
    ) -> None:
        self.bench = bench
        self.model: Any = bench.accelerator.unwrap_model(bench.model)
        self.answers: Sequence[Answer] = ()
        self.num_passes: int = arguments.gradient_accumulation_steps
        self._num_generations = method.num_generations
        self._prompts: Sequence[Prompt] = ()
        self._batches: Sequence[dict[str, Any]] = ()
        self._sampler = Sampler(
            bench=bench, sampling=method.sampling, max_new_tokens=method.max_new_tokens
        )
        _refuse_adapted_head(self.model)
        # Padded rows need the kernel that reads a mask.
        self._kernel: str = self.model.config._attn_implementation
        if reads_boundaries(self._kernel):
            self.model.set_attn_implementation("sdpa")
        self.trainer = self._made(method, trainer, arguments)

    def roll_out(self, prompts: Sequence[Prompt]) -> Mapping[str, float]:
        """See `Learner`."""
        self._prompts = prompts
        inputs: list[dict[str, Any]] = [{"prompt": one.identifier} for one in prompts]
        self.model.train()
        with self._autocast():
            held = self.trainer._generate_and_score_completions(inputs)
        self._batches = split_tensor_dict(held, self.num_passes)
        return {
            **self.bench.scoring.means(self.bench.accelerator, self.answers),
            "equal_groups_ratio": self._equal_groups(),
        }

    def loss(self, index: int) -> Tensor:
        """See `Learner`."""
        self.trainer.current_gradient_accumulation_steps = self.num_passes
        with self._autocast():
            loss = self.trainer.compute_loss(self.bench.model, self._batches[index])
        return loss if self.trainer.loss_is_scaled_for_ga else loss / self.num_passes

    def metrics(self) -> Mapping[str, float]:
        """See `Learner`."""
        logged: dict[str, float] = {}
        self.trainer.log(logged)
        self.trainer.state.log_history.clear()
        found = {ours: logged.get(theirs) for theirs, ours in _METRICS.items() if theirs in logged}
        return {name: value for name, value in found.items() if value is not None}

    def close(self) -> None:
        """See `Learner`."""
        plain = plain_model(self.model)
        vars(plain).pop("forward", None)  # what `add_fused_lm_head` put over the class's own
        self.model.set_attn_implementation(self._kernel)
        shutil.rmtree(self.bench.folder, ignore_errors=True)

    # ---- what TRL asks for

    def _made(self, method: GRPO | RLOO, trainer: type[_GRPO | _RLOO], arguments: Any) -> Any:
        from datasets import Dataset

        names = list(self.bench.scoring.weights)
        dtypes = {name: one.dtype for name, one in self.model.named_parameters()}
        ends = sorted(self.bench.end_token_ids)
        self.model.generation_config.eos_token_id = ends
        rewards: list[Any] = [self._reward(name) for name in names]
        prompts = Dataset.from_dict({"prompt": ["-"] * arguments.generation_batch_size})
        with _without_copy(self.model), quiet():
            made = trainer(
                model=self.model,
                reward_funcs=rewards,
                args=arguments,
                train_dataset=prompts,
                processing_class=self.bench.tokenizer,
            )
        for name, parameter in self.model.named_parameters():
            # TRL casts adapters of quantized models to bfloat16; the recipe says in what to train.
            parameter.data = parameter.data.to(dtypes[name])
        made.remove_callback(PrinterCallback)
        made.ask = lambda: [list(one.tokens) for one in self._prompts]
        made.answer = self._answer
        made.eos_token_ids = ends
        # Set only now: TRL would load the reference from where the model came from. Without one, it
        # switches the adapter off.
        made.beta = method.beta
        reference: Any = self.bench.reference_model
        if reference is not None:
            if reads_boundaries(reference.config._attn_implementation):
                reference.set_attn_implementation("sdpa")
            add_fused_lm_head(reference, temperature=method.sampling.temperature)
            made.ref_model = reference
        return made

    def _reward(self, name: str) -> Callable[..., list[float]]:
        def reward(*, completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
            if len(self.answers) != len(completion_ids) or self.trainer.use_vllm:
                self._read(completion_ids)
            return self.bench.scoring.score(name, self.answers)

        reward.__name__ = name
        return reward

    def _answer(self) -> list[list[int]]:
        self.answers = self._sampler(self._prompts)
        return [list(answer.tokens) for answer in self.answers]

    def _read(self, completion_ids: Sequence[Sequence[int]]) -> None:
        bench = self.bench
        self.answers = [
            answer_of(prompt, tokens, bench.end_token_ids, bench.tokenizer)
            for prompt, tokens in zip(self._prompts, completion_ids, strict=True)
        ]

    def _equal_groups(self) -> float:
        """Share of the prompts, over all processes, all answers to which got the same reward.

        TRL's own number has the penalty of RLOO's `beta` in it, which differs where rewards don't.
        """
        scoring, accelerator = self.bench.scoring, self.bench.accelerator
        scores = torch.tensor([scoring.latest[name] for name in scoring.weights])
        weights = torch.tensor(list(scoring.weights.values()))
        totals: Any = accelerator.gather((weights @ scores).to(accelerator.device))
        groups = totals.view(-1, self._num_generations)
        same = torch.isclose(groups, groups[:, :1], rtol=1e-6)  # sums may round apart
        return float(same.all(dim=1).float().mean())

    def _autocast(self) -> Any:
        return autocast(self.bench.accelerator.device, self.bench.autocast_dtype)


def _arguments(method: GRPO | RLOO, bench: Workbench) -> dict[str, Any]:
    """What both trainers are given."""
    accelerator = bench.accelerator
    per_pass = bench.micro_batch_size * accelerator.num_processes
    found: dict[str, Any] = {
        "output_dir": str(bench.folder),
        "per_device_train_batch_size": bench.micro_batch_size,
        "gradient_accumulation_steps": bench.global_batch_size // per_pass,
        "num_generations": method.num_generations,
        "num_iterations": method.num_iterations,
        "max_completion_length": method.max_new_tokens,
        "temperature": method.sampling.temperature,
        "top_p": method.sampling.top_p,
        "top_k": method.sampling.top_k,
        "min_p": method.sampling.min_p or None,
        "beta": 0.0,
        "reward_weights": list(bench.scoring.weights.values()),
        "gradient_checkpointing": False,
        "bf16": False,
        "fp16": accelerator.mixed_precision == "fp16",
        "use_cpu": accelerator.device.type == "cpu",
        "seed": bench.seed,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }
    if method.generation == "vllm":
        found |= _vllm_arguments(method)
    return found


def _vllm_arguments(method: GRPO | RLOO) -> dict[str, Any]:
    from framework.online.vllm import VLLM

    vllm = method.vllm or VLLM()
    return {
        "use_vllm": True,
        "vllm_mode": vllm.mode,
        "vllm_server_base_url": vllm.server_base_url,
        "vllm_gpu_memory_utilization": vllm.gpu_memory_utilization,
        "vllm_tensor_parallel_size": vllm.tensor_parallel_size,
        "vllm_enable_sleep_mode": vllm.sleep,
    }


@contextlib.contextmanager
def _without_copy(model: Any) -> Iterator[None]:
    """RLOO adds a second adapter, `ref`, with the first one's weights, which some adapters can't
    have and none needs here; while the context lasts it gets the first one in its place, copied
    onto itself (https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/rloo_trainer.py#L421).
    Where none is called `default`, as TRL supposes, the first one is called that too.
    """
    own = model.get_parameter
    configs = _adapters_of(model)
    unnamed = bool(configs) and "default" not in configs
    if unnamed:
        configs["default"] = next(iter(configs.values()))
    model.add_adapter = lambda *_, **__: None
    model.get_parameter = lambda name: own(name.replace(".ref.", ".default."))
    try:
        yield
    finally:
        del model.add_adapter, model.get_parameter
        if unnamed:
            del configs["default"]


def _adapters_of(model: object) -> dict[str, Any]:
    """Name -> configuration of each adapter; peft's own mapping."""
    return model.peft_config if isinstance(model, PeftModel) else {}


def _refuse_adapted_head(model: PreTrainedModel | PeftModel) -> None:
    if isinstance(model, PeftModel) and isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise UserError(
            Problem(
                key="adapter.target_modules",
                what="TRL computes probabilities from the output layer's own weights, so an "
                "adapter on it would never be trained",
                hint="leave `lm_head` out",
            )
        )
