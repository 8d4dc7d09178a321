"""Recovery as a dimension of the space: the ladder from nothing to training, and which rungs a model can step on."""

from __future__ import annotations

from evaluators.candidate import TRAINED
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile

RECOVERY = Choice(
    "recovery",
    ("none", "bn", "distil", "train"),
    "distil",
    "how the pruned model learns again: not at all, batch-norm statistics only, from the original, from the labels",
)
RECOVERY_STEPS = Choice(
    "recovery_steps", (50, 150, 500), 150, "training steps of recovery after pruning", when=("recovery", TRAINED)
)


def recovery_for(profile: WorkloadProfile) -> tuple[Parameter, ...]:
    """Return the knobs of recovery with what this workload allows.

    Statistics are estimated again where there are any, and labels are trained on where the workload has a loss and a
    train split.
    """
    left_out = set() if any("BatchNorm" in layer for layer in profile.layers) else {"bn"}
    if not (profile.has_loss and profile.has_train):
        left_out.add("train")
    return (RECOVERY.narrowed([value for value in RECOVERY.values if value not in left_out]), RECOVERY_STEPS)
