"""Group relative policy optimization: prompts, several answers to each, the better ones learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.core.batch import Features
from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.protocols import training as training_kinds
from framework.core.protocols.training import Chat, Comparison
from framework.core.rollouts import Learner, Sampling
from framework.core.samples import PromptOnly, Sample
from framework.core.settings import setting, slots
from framework.online.conflicts import online_conflicts, vllm_conflicts
from framework.online.prompts import prompt_features
from framework.online.vllm import VLLM
from framework.recipe.without_effect import unused_settings

if TYPE_CHECKING:
    from torch.nn import Module

    from framework.online.bench import Workbench
    from framework.recipe.schema import Recipe

_CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
_SUMMED = ("bnpo", "dr_grpo", "dapo", "cispo")


@dataclass(frozen=True, kw_only=True)
class GRPO:
    """Learns from its own answers: each prompt is answered several times, and what rewards find
    better than the group's mean becomes more likely; the mathematics is TRL's.

    A batch is counted in answers: `global_batch_size: 16` with `num_generations: 8` asks 2 prompts.
    """

    rewards: tuple[training_kinds.Reward, ...] = slots("rewards")
    """What judges the answers; their numbers are multiplied by their weights and added up."""
    num_generations: int = setting(8, at_least=2)
    """Answers to each prompt; they are compared with each other."""
    max_new_tokens: int = setting(256, at_least=1)
    """Longest answer, in tokens; it comes on top of `data.max_length`, which prompts keep to."""
    sampling: Sampling = field(default_factory=Sampling)
    """How answers are drawn."""
    generation: Literal["transformers", "vllm"] = "transformers"
    """What answers."""
    vllm: VLLM | None = None
    """vLLM's settings; None: its defaults."""
    num_shown: int = setting(2, at_least=0)
    """Answers of each batch that are kept in `answers.jsonl`."""
    num_iterations: int = setting(1, at_least=1)
    """Optimizer steps on each batch of answers; above 1, ratios of probabilities are clipped."""
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"] = (
        "dapo"
    )
    """How the tokens' losses are clipped and averaged. `grpo` (arXiv 2402.03300): mean of each
    answer, then of the answers. `bnpo`: mean over the tokens of a forward pass. `dr_grpo`
    (2503.20783): sum over tokens, divided by `max_new_tokens`. `dapo` (2503.14476): mean over the
    tokens of the whole batch. `cispo` (2506.13585): the weights are clipped, not the gradient.
    `sapo` (2511.20347): a smooth gate instead of clipping. `luspo` (2602.05261): each answer's
    weight grows with its length. `vespo` (2602.10693): smooth weights of whole answers."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Ratios of probabilities for each token, or their geometric mean over an answer (GSPO,
    2507.18071: `sequence` with `loss_type: grpo`)."""
    epsilon: float = setting(0.2, above=0)
    """Ratios are clipped to 1 - epsilon ... 1 + epsilon."""
    epsilon_high: float | None = setting(None, above=0)
    """Another upper bound: 1 + epsilon_high, 0.28 in DAPO. With `cispo` it is the largest ratio
    itself."""
    delta: float | None = setting(None, above=1)
    """Largest ratio also where the advantage is negative (2505.07291)."""
    beta: float = setting(0.0, at_least=0)
    """Weight of the KL divergence from the model before training; 0: nothing holds it."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Advantages are divided by the standard deviation of their group, of the batch (2508.08221),
    or not at all (2503.20783)."""
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = (
        "sum_then_normalize"
    )
    """Whether several rewards are added before they are compared, or after (GDPO)."""
    mask_truncated_completions: bool = False
    """Learn nothing from answers that were cut at `max_new_tokens`."""
    top_entropy_quantile: float = setting(1.0, at_least=0, at_most=1)
    """Learn only from this share of the tokens, those of the highest entropy (2506.01939: 0.2)."""
    entropy_coef: float = setting(0.0, at_least=0)
    """Weight of a bonus for entropy, against answers that become all alike."""
    off_policy_mask_threshold: float | None = setting(None, above=0)
    """Leaves out bad answers whose probability has changed by more than this KL (2512.02556)."""
    use_bias_correction_kl: bool = True
    """Weight the KL term by the ratio of probabilities: its gradient is exact then (2512.02556)."""
    sapo_temperature_pos: float = setting(1.0, above=0)
    """Sharpness of SAPO's gate for tokens of good answers."""
    sapo_temperature_neg: float = setting(1.05, above=0)
    """And of bad ones."""
    vespo_k_pos: float = setting(2.0, at_least=0)
    """VESPO's exponent of the weights of good answers."""
    vespo_lambda_pos: float = setting(3.0, at_least=0)
    """And their decay."""
    vespo_k_neg: float = setting(3.0, at_least=0)
    """VESPO's exponent of the weights of bad answers."""
    vespo_lambda_neg: float = setting(2.0, at_least=0)
    """And their decay."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (PromptOnly,)
    packs: ClassVar[bool] = False

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings must mean something together."""
        yield from missing_extra("trl", "rl", key="trainer.type")
        yield from online_conflicts(self, recipe)
        yield from vllm_conflicts(self.generation, self.vllm)
        for loss in ("sapo", "vespo"):
            own = [name for name in vars(self) if name.startswith(f"{loss}_")]
            line = f"loss_type: {loss}"
            yield from unused_settings(self, dict.fromkeys(own, (self.loss_type == loss, line)))
        if self.loss_type == "cispo" and self.epsilon_high is None:
            yield Problem(
                key=".epsilon_high",
                what="is missing: with `cispo` it is the largest ratio itself",
                hint="write epsilon_high: 5.0",
            )
        if self.loss_type == "luspo" and self.importance_sampling_level != "sequence":
            yield Problem(
                key=".importance_sampling_level",
                what="`luspo` is defined for ratios of whole answers",
                hint="write importance_sampling_level: sequence",
            )
        if self.loss_type == "vespo" and self.importance_sampling_level != "token":
            yield Problem(
                key=".importance_sampling_level",
                what="`vespo` makes ratios of whole answers itself",
                hint="write importance_sampling_level: token",
            )
        if self.delta is not None and self.loss_type not in _CLIPPED:
            yield Problem(
                key=".delta",
                what=f"`{self.loss_type}` has no clipping that it could bound",
                hint=f"leave it out, or write loss_type: one of {', '.join(_CLIPPED)}",
            )

    def notes(self, recipe: Recipe) -> Iterable[Problem]:
        """What is allowed, and perhaps not meant."""
        if self.importance_sampling_level == "sequence" and self.loss_type in _SUMMED:
            yield Problem(
                key=".loss_type",
                what=f"`{self.loss_type}` sums over tokens, so that with ratios of whole answers "
                "long ones count more",
                hint="GSPO is loss_type: grpo",
            )

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """The prompt, and what rewards need."""
        return prompt_features(sample, chat, self.rewards)

    def compared_with(self) -> Comparison | None:
        """The model before training, where the KL divergence counts."""
        return Comparison() if self.beta else None

    def equip(self, model: Module) -> None:
        """Nothing is trained beside the model."""

    def learner(self, bench: Workbench) -> Learner:
        """TRL's trainer at work."""
        from framework.online.trl_learner import grpo_learner

        return grpo_learner(self, bench)
