"""One training loop for every objective, its checkpoints, and pretraining."""

from smidgen.training.data import Sequences, TrainingData
from smidgen.training.evaluate import Evaluation, bits_per_byte, evaluate
from smidgen.training.loop import train
from smidgen.training.objectives import Batch, LanguageModeling, Loss, Objective
from smidgen.training.observer import Observer, Plan, Snapshot, Summary
from smidgen.training.pretraining import pretrain
from smidgen.training.task import Task

__all__ = [
    "Batch",
    "Evaluation",
    "LanguageModeling",
    "Loss",
    "Objective",
    "Observer",
    "Plan",
    "Sequences",
    "Snapshot",
    "Summary",
    "Task",
    "TrainingData",
    "bits_per_byte",
    "evaluate",
    "pretrain",
    "train",
]
