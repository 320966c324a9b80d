"""REINFORCE leave-one-out: prompts, several answers to each, every one compared with the others."""

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

if TYPE_CHECKING:
    from torch.nn import Module

    from framework.online.bench import Workbench
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class RLOO:
    """Learns from its own answers: each is compared with the mean of the others to its prompt; the
    mathematics (arXiv 2402.14740) is TRL's.

    A batch is counted in answers: `global_batch_size: 16` with `num_generations: 4` asks 4 prompts.
    """

    rewards: tuple[training_kinds.Reward, ...] = slots("rewards")
    """What judges the answers; their numbers are multiplied by their weights and added up."""
    num_generations: int = setting(4, at_least=2)
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
    beta: float = setting(0.05, at_least=0)
    """Weight of the KL divergence from the model before training, which is taken off the reward; 0:
    nothing holds it."""
    epsilon: float = setting(0.2, above=0)
    """Ratios of the answers' probabilities are clipped to 1 - epsilon ... 1 + epsilon."""
    epsilon_high: float | None = setting(None, above=0)
    """Another upper bound: 1 + epsilon_high."""
    normalize_advantages: bool = False
    """Advantages of a batch get mean 0 and standard deviation 1."""
    reward_clip_range: tuple[float, ...] = ()
    """Smallest and largest reward, such as `[-5, 5]`; what is beyond is clipped. Empty: no bounds.
    """
    mask_truncated_completions: bool = False
    """Learn nothing from answers that were cut at `max_new_tokens`."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (PromptOnly,)
    packs: ClassVar[bool] = False

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings must mean something together."""
        yield from missing_extra("trl", "rl", key="trainer.type")
        yield from online_conflicts(self, recipe)
        yield from vllm_conflicts(self.generation, self.vllm)
        bounds = self.reward_clip_range
        if bounds and (len(bounds) != 2 or not bounds[0] < bounds[1]):
            yield Problem(
                key=".reward_clip_range",
                what=f"{list(bounds)} is no smallest and largest reward",
                hint="write reward_clip_range: [-5, 5]",
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
        from framework.online.trl_learner import rloo_learner

        return rloo_learner(self, bench)
