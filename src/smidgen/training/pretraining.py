"""Pretraining: a dataset folder and a configuration become a run."""

from __future__ import annotations

import logging
from pathlib import Path

from smidgen.config import Config
from smidgen.data import Dataset, Windows, validation_windows
from smidgen.data.dataset import Split
from smidgen.model import Decoder
from smidgen.runtime.errors import ConfigError
from smidgen.training.data import TrainingData
from smidgen.training.loop import Task, train
from smidgen.training.objectives import LanguageModeling
from smidgen.training.observer import Observer, Summary

logger = logging.getLogger(__name__)


def pretrain(config: Config, run_path: str | Path, observer: Observer | None = None) -> Summary:
    """Train a model from random weights on `data.path`, or resume the run at `run_path` (see `train`).

    The vocabulary size is the dataset's; a foreign dataset has none, so its ids are checked against the model's.
    """
    dataset = open_dataset(config)
    config = resolve(config, dataset)
    task = Task(
        objective=LanguageModeling(),
        data=training_data(config, dataset),
        starting_model=lambda: Decoder(config.model).initialize(config.training.seed),
        tokenizer=dataset.tokenizer(),
    )
    return train(config, task, run_path, observer)


def open_dataset(config: Config) -> Dataset:
    """The dataset of `data.path`. Raises ConfigError where the field is empty."""
    if config.data.path is None:
        kind, size = config.tokenizer.kind, config.model.vocab_size
        raise ConfigError(
            "data.path = null: name a dataset folder with --data.path; one is made by"
            f" 'smidgen prepare corpus.jsonl --out data --tokenizer.kind {kind} --tokenizer.vocab_size {size}'"
        )
    return Dataset.open(config.data.path)


def resolve(config: Config, dataset: Dataset) -> Config:
    """The configuration with what only the data decides: the vocabulary size; and the sequence length written out."""
    model, training = config.model, config.training
    if dataset.vocab_size is not None:
        model = model.model_copy(update={"vocab_size": dataset.vocab_size})
    training = training.model_copy(update={"seq_len": training.seq_len or model.max_seq_len})
    return config.model_copy(update={"model": model, "training": training})


def training_data(config: Config, dataset: Dataset) -> TrainingData:
    """The sequences of a resolved configuration. Raises DataError where ids or lengths do not fit."""
    for split in (dataset.train, dataset.val):
        split.check_vocab(config.model.vocab_size)
    data, training = config.data, config.training
    assert training.seq_len is not None
    validation = None
    if dataset.val.num_tokens < 2:
        logger.warning("%s: the validation split is empty: no validation loss, no best checkpoint", dataset.path)
    else:
        validation = validation_windows(
            dataset.val, training.seq_len, training.eval_tokens, document_masks=data.document_masks
        )
    return TrainingData(
        train=Windows(
            dataset.train,
            training.seq_len,
            sampling=data.sampling,
            seed=training.seed,
            document_masks=data.document_masks,
        ),
        validation=validation,
        fingerprint=dataset.fingerprint,
        train_bytes_per_token=_bytes_per_token(dataset.train),
        validation_bytes_per_token=_bytes_per_token(dataset.val),
    )


def _bytes_per_token(split: Split) -> float | None:
    return split.num_bytes / split.num_tokens if split.num_bytes and split.num_tokens else None
