"""Proximal policy optimization: answers, a value of every token, and clipped updates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from framework.core.batch import Features
from framework.core.problems import Problem
from framework.core.protocols import training as training_kinds
from framework.core.protocols.training import Chat, Comparison
from framework.core.rollouts import Learner, Sampling
from framework.core.samples import PromptOnly, Sample
from framework.core.settings import setting, slots
from framework.online.conflicts import online_conflicts
from framework.online.prompts import prompt_features

if TYPE_CHECKING:
    from torch.nn import Module

    from framework.online.bench import Workbench
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class PPO:
    """Learns from its own answers: a value head on the model says what reward is to be expected
    after each token, and what brings more than that becomes more likely (arXiv 1707.06347).

    A batch is counted in answers: `global_batch_size: 16` asks 16 prompts. The value head is
    trained with the model, and is not part of what is saved at the end.
    """

    rewards: tuple[training_kinds.Reward, ...] = slots("rewards")
    """What judges the answers; their numbers are multiplied by their weights and added up."""
    num_generations: int = setting(1, at_least=1)
    """Answers to each prompt in a batch."""
    max_new_tokens: int = setting(256, at_least=1)
    """Longest answer, in tokens; it comes on top of `data.max_length`, which prompts keep to."""
    sampling: Sampling = field(default_factory=Sampling)
    """How answers are drawn."""
    num_shown: int = setting(2, at_least=0)
    """Answers of each batch that are kept in `answers.jsonl`."""
    num_iterations: int = setting(4, at_least=1)
    """Optimizer steps on each batch of answers."""
    kl_coef: float = setting(0.05, at_least=0)
    """Taken off each token's reward: this times the logarithm of how much more likely the token is
    than before training; 0: nothing holds the model."""
    gamma: float = setting(1.0, above=0, at_most=1)
    """What a reward is worth one token earlier."""
    gae_lambda: float = setting(0.95, at_least=0, at_most=1)
    """Advantages (1506.02438) rest on the value head at 0, on the rewards alone at 1."""
    epsilon: float = setting(0.2, above=0)
    """Ratios of the tokens' probabilities are clipped to 1 - epsilon ... 1 + epsilon."""
    value_epsilon: float = setting(0.2, above=0)
    """Values may move so far from what they were when the answers were given."""
    value_coef: float = setting(0.1, above=0)
    """Weight of the value loss."""
    entropy_coef: float = setting(0.0, at_least=0)
    """Weight of a bonus for entropy, against answers that become all alike."""
    whiten_advantages: bool = True
    """Advantages of a batch get mean 0 and standard deviation 1."""
    truncation_penalty: float = setting(0.0, at_least=0)
    """Taken off the reward of answers that were cut at `max_new_tokens`."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (PromptOnly,)
    packs: ClassVar[bool] = False

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings must mean something together."""
        yield from online_conflicts(self, recipe)

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """The prompt, and what rewards need."""
        return prompt_features(sample, chat, self.rewards)

    def compared_with(self) -> Comparison | None:
        """The model before training, where the KL penalty counts."""
        return Comparison() if self.kl_coef else None

    def equip(self, model: Module) -> None:
        """Adds the value head."""
        from framework.online.value_head import add_value_head

        add_value_head(model)

    def learner(self, bench: Workbench) -> Learner:
        """The algorithm at work."""
        from framework.online.ppo_learner import PPOLearner

        return PPOLearner(self, bench)
