"""Pretraining: dataset folders and a configuration become a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from smidgen.config import Config, DataConfig, load_config
from smidgen.data import DatasetMixture, MixedSequences, PackedDocuments, Prefetched, Windows, validation_windows
from smidgen.data.batch import SelectableSequences, Sequences
from smidgen.data.compatibility import check_tokenizer
from smidgen.data.dataset import Split
from smidgen.data.mixture import ChainedSequences, FirstSequences
from smidgen.data.permutation import derived_seed
from smidgen.folders import load_tokenizer
from smidgen.folders.run import is_run_folder
from smidgen.runtime.errors import ConfigError, ModelFolderError
from smidgen.training.base import BaseStorage, starting_model, store_quantized
from smidgen.training.data import TrainingData
from smidgen.training.loop import train
from smidgen.training.objectives import LanguageModeling, Objective
from smidgen.training.observer import Observer, Summary
from smidgen.training.parallel import is_main_rank
from smidgen.training.task import Task

logger = logging.getLogger(__name__)

LONG_WAIT_SECONDS = 10.0
LONG_WAIT_SHARE = 0.05
"""Waiting for data is a warning above both."""
MUCH_PADDING = 0.1
"""Padding is a warning above this part of all positions."""


class HasVocabulary(Protocol):
    """A dataset, or a mixture of some."""

    @property
    def vocab_size(self) -> int | None:
        """Every id is below it; None where it is not known."""


def pretrain(
    config: Config, run_path: str | Path, observer: Observer | None = None, objective: Objective | None = None
) -> Summary:
    """Train on `data.path` or `data.mixture`, from random weights or `tuning.base`, or resume the run at `run_path`.

    See `train`. With a base the data must be of its tokenizer. The vocabulary size is the dataset's; a foreign
    dataset has none, so its ids are checked against the model's. Batches are prepared while the model computes.
    `objective`: language modelling, if left out.
    """
    kind = config.tuning.objective.kind
    if objective is None and kind != "language_modeling":
        command = "distill" if kind == "distillation" else kind
        raise ConfigError(f"tuning.objective.kind = {kind}: is the business of 'smidgen {command}'; use that command")
    config = with_data_of_run(config, run_path)
    data = open_dataset(config)
    check_run(data, run_path)
    if config.tuning.base is not None and not is_run_folder(run_path):
        check_tokenizer(data, data.names, load_tokenizer(config.tuning.base), config.tuning.base)
    config = resolve(config, data)
    sequences = training_data(config, data)
    begun = time.perf_counter()
    with Prefetched(sequences.train) as prefetched:
        task = Task(
            objective=objective or LanguageModeling(),
            data=replace(sequences, train=prefetched),
            starting_model=lambda: starting_model(config),
            tokenizer=data.tokenizer(),
            storage=BaseStorage(config),
            seed=config.training.seed if config.tuning.base is None else None,
        )
        summary = train(config, task, run_path, observer)
    _report_waiting(prefetched.wait_seconds, time.perf_counter() - begun)
    if is_main_rank() and summary.steps == summary.total_steps:
        store_quantized(config, summary.run)
    return summary


def _report_waiting(waited: float, seconds: float) -> None:
    """Say how long the training waited for batches, aloud where that is worth a change."""
    if waited > max(LONG_WAIT_SECONDS, LONG_WAIT_SHARE * seconds):
        logger.warning("waited %.0f s of %.0f s for data: put the dataset on a faster disk", waited, seconds)
    else:
        logger.info("waited %.1f s of %.1f s for data", waited, seconds)


def with_data_of_run(config: Config, run_path: str | Path) -> Config:
    """A run that exists knows its data: the configuration with that, where it names none itself."""
    if config.data.path is not None or config.data.mixture is not None or not is_run_folder(run_path):
        return config
    before = load_config(run_path).data
    data = config.data.model_copy(update={"path": before.path, "mixture": before.mixture})
    return config.model_copy(update={"data": data})


def open_dataset(config: Config) -> DatasetMixture:
    """The dataset of `data.path`, or those of `data.mixture`. Raises ConfigError where both fields are empty."""
    if config.data.mixture is not None:
        return DatasetMixture.open(config.data.mixture)
    if config.data.path is None:
        kind, size = config.tokenizer.kind, config.model.vocab_size
        raise ConfigError(
            "data.path = null: name a dataset folder with --data.path; one is made by"
            f" 'smidgen prepare corpus.jsonl --out data --tokenizer.kind {kind} --tokenizer.vocab_size {size}'"
        )
    return DatasetMixture.open({config.data.path: 1.0})


def check_run(data: DatasetMixture, run_path: str | Path) -> None:
    """Refuse to go on with a run whose model means something else by its ids: DataError naming both tokenizers."""
    if not is_run_folder(run_path):
        return
    try:
        tokenizer = load_tokenizer(run_path)
    except ModelFolderError:
        return  # no checkpoint yet, or one of foreign files, whose model has no tokenizer
    check_tokenizer(data, data.names, tokenizer, run_path)


def resolve(config: Config, data: HasVocabulary) -> Config:
    """The configuration with what only the data decides: the vocabulary size, unless a base has decided it; and the
    sequence length written out."""
    model, training = config.model, config.training
    if data.vocab_size is not None and config.tuning.base is None:
        model = model.model_copy(update={"vocab_size": data.vocab_size})
    training = training.model_copy(update={"seq_len": training.seq_len or model.max_seq_len})
    return config.model_copy(update={"model": model, "training": training})


def training_data(config: Config, data: DatasetMixture) -> TrainingData:
    """The sequences of a resolved configuration. Raises DataError where ids or lengths do not fit."""
    data.check_vocab(config.model.vocab_size)
    train_splits, seed = [dataset.train for dataset in data.datasets], config.training.seed
    if len(train_splits) == 1:
        train = _training_sequences(config, train_splits[0], seed)
    else:
        sources = [_training_sequences(config, split, derived_seed(seed, n)) for n, split in enumerate(train_splits)]
        train = MixedSequences(sources, data.parts)
    validation, validation_bytes_per_token = _validation_sequences(config, data)
    return TrainingData(
        train=train,
        validation=validation,
        fingerprint=data.fingerprint,
        train_bytes_per_token=_bytes_per_token(train_splits, data.shares),
        validation_bytes_per_token=validation_bytes_per_token,
    )


def _training_sequences(config: Config, split: Split, seed: int) -> SelectableSequences:
    data, seq_len = config.data, config.training.seq_len
    assert seq_len is not None
    if split.mask is None and data.packing == "split":
        return Windows(split, seq_len, sampling=data.sampling, seed=seed, document_masks=data.document_masks)
    packed = PackedDocuments(split, seq_len, seed=seed)
    padding = packed.padding / (packed.per_epoch * seq_len)
    logger.log(
        logging.WARNING if padding > MUCH_PADDING else logging.INFO,
        "data.packing = best_fit: %d sequences an epoch, %.2f %% of their positions padding",
        packed.per_epoch,
        100 * padding,
    )
    if packed.truncated:
        logger.warning(
            "training.seq_len = %d: %d of %d conversations are cut off, which loses %d tokens; of %d no answer is left",
            seq_len,
            packed.truncated,
            split.num_documents,
            packed.tokens_lost,
            packed.answerless,
        )
    return packed


def _validation_sequences(config: Config, data: DatasetMixture) -> tuple[Sequences | None, float | None]:
    """The windows of an evaluation, each dataset's by its share of `eval_tokens`, and the bytes that a token of them
    stands for."""
    seq_len, eval_tokens = config.training.seq_len, config.training.eval_tokens
    assert seq_len is not None
    splits: list[Split] = []
    windows: list[Sequences] = []
    for dataset, share in zip(data.datasets, data.shares, strict=True):
        if dataset.val.num_tokens >= 2:
            budget = None if eval_tokens is None else round(eval_tokens * share)
            splits.append(dataset.val)
            windows.append(_held_out(dataset.val, seq_len, budget, config.data))
    if not windows:
        logger.warning("%s: the validation split is empty: no validation loss, no best checkpoint", data.names)
        return None, None
    sequences = windows[0] if len(windows) == 1 else ChainedSequences(windows)
    return sequences, _bytes_per_token(splits, [part.per_epoch for part in windows])


def _held_out(split: Split, seq_len: int, budget: int | None, data: DataConfig) -> Sequences:
    """Packed as what is learned from: a model that only ever saw whole documents is not asked about halves."""
    if split.mask is None and data.packing == "split":
        return validation_windows(split, seq_len, budget, document_masks=data.document_masks)
    packed = PackedDocuments(split, seq_len)
    return packed if budget is None else FirstSequences(packed, max(budget // seq_len, 1))


def _bytes_per_token(splits: Sequence[Split], weights: Sequence[float]) -> float | None:
    """UTF-8 bytes of text for each token when tokens come from the splits in the proportion of `weights`."""
    rates = [split.num_bytes / split.num_tokens if split.num_bytes and split.num_tokens else None for split in splits]
    known = [rate for rate in rates if rate is not None]
    if len(known) < len(rates):
        return None
    return sum(rate * weight for rate, weight in zip(known, weights, strict=True)) / sum(weights)
