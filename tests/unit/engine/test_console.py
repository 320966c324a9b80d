"""What the line of a step says."""

from __future__ import annotations

from framework.engine.console import metrics_text

ROW = {"step": 3, "loss": 0.69314, "reward_accuracy": 0.75, "kl": 0.0123456, "grad_norm": 1.5}


def test_the_trainers_own_metrics_stand_beside_the_loss():
    assert metrics_text(ROW) == "loss 0.6931  reward_accuracy 0.75  kl 0.0123"


def test_a_row_of_an_evaluation_is_written_without_its_prefix():
    row = {f"eval_{name}": value for name, value in ROW.items() if name != "step"}
    assert metrics_text({"step": 3, "epoch": 1.0, **row}, "eval_").startswith("loss 0.6931  reward")
