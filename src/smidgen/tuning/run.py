"""From a base, a dataset folder and a configuration to a run: what `training.pretraining` is for pretraining."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from smidgen.config import Config, Dpo
from smidgen.data import Dataset, DatasetMixture, Prefetched
from smidgen.data.manifest import digest_of
from smidgen.data.mixture import FirstSequences
from smidgen.folders import load, load_tokenizer, model_config
from smidgen.folders.end_tokens import name_end_tokens
from smidgen.folders.run import is_run_folder
from smidgen.model import Decoder
from smidgen.model.growth import grow_vocabulary
from smidgen.runtime.errors import ConfigError, DataError
from smidgen.runtime.protocols import Tokenizer
from smidgen.tokenization import BaseTokenizer
from smidgen.tokenization.chat import chat_tokenizer
from smidgen.training.base import BaseStorage, starting_model, store_quantized
from smidgen.training.data import TrainingData
from smidgen.training.devices import resolve_device
from smidgen.training.loop import train
from smidgen.training.objectives import LanguageModeling
from smidgen.training.observer import Observer, Summary
from smidgen.training.parallel import is_main_rank, rank_device
from smidgen.training.pretraining import check_run, open_dataset, training_data, with_data_of_run
from smidgen.training.task import Task
from smidgen.tuning.pairs import PairSequences, longest
from smidgen.tuning.preference import DirectPreference
from smidgen.tuning.reference import base_fingerprint, reference_log_probabilities

logger = logging.getLogger(__name__)


def tune(config: Config, run_path: str | Path, observer: Observer | None = None) -> Summary:
    """Tune `tuning.base` as `tuning.objective` says on the conversations or pairs of `data`, or resume `run_path`.

    See `train`. The data is a folder that `prepare_conversations` wrote with `base_tokenizer`. Raises ConfigError,
    DataError or ModelFolderError before any work where they do not fit together.
    """
    config = with_data_of_run(config, run_path)
    data = open_dataset(config)
    check_run(data, run_path)
    tokenizer = data.tokenizer()
    if tokenizer is None or any(dataset.train.mask is None for dataset in data.datasets):
        raise DataError(f"{data.names}: is plain text, no conversations; make them with 'smidgen sft --data' or 'dpo'")
    wants_pairs = isinstance(config.tuning.objective, Dpo)
    if any(dataset.holds_pairs != wants_pairs for dataset in data.datasets):
        held, needed = ("conversations", "pairs") if wants_pairs else ("pairs", "conversations")
        raise DataError(
            f"{data.names}: holds {held}, and tuning.objective.kind {config.tuning.objective.kind} {needed}"
        )
    if not is_run_folder(run_path):
        _check_base(config, data, tokenizer)
    config = with_vocabulary(config, tokenizer)
    config, task = _preferences(config, data) if wants_pairs else _language_modeling(config, data)
    with Prefetched(task.data.train) as prefetched:
        task = replace(
            task, tokenizer=tokenizer, data=replace(task.data, train=prefetched), storage=ChatStorage(config)
        )
        summary = train(config, task, run_path, observer)
    if is_main_rank() and summary.steps == summary.total_steps:
        store_quantized(config, summary.run)
    return summary


class ChatStorage(BaseStorage):
    """Checkpoints that say where an answer ends: the token behind the assistant's words, beside the end of text."""

    def save(self, model: Decoder, folder: Path, tokenizer: Tokenizer | None) -> object:
        saved = super().save(model, folder, tokenizer)
        if tokenizer is not None:
            name_end_tokens(folder, tokenizer)
        return saved


def base_tokenizer(config: Config) -> BaseTokenizer:
    """The tokenizer of `tuning.base` with the chat template that `tuning.chat_template` asks for."""
    base = config.tuning.base
    if base is None:
        raise ConfigError("tuning.base = null: name the model to tune")
    tokenizer = load_tokenizer(base)
    assert isinstance(tokenizer, BaseTokenizer)
    return chat_tokenizer(tokenizer, config.tuning.chat_template)


def with_vocabulary(config: Config, tokenizer: Tokenizer) -> Config:
    """The configuration with room for every id of the tokenizer: a base may lack the chat template's markers."""
    size = max(config.model.vocab_size, tokenizer.vocab_size)
    return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": size})})


def _check_base(config: Config, data: DatasetMixture, tokenizer: Tokenizer) -> None:
    base = config.tuning.base
    wanted = base_tokenizer(config)
    if wanted.fingerprint != tokenizer.fingerprint or wanted.chat_template != tokenizer.chat_template:
        raise DataError(
            f"{data.names}: was prepared with another tokenizer or chat template than that of tuning.base = {base}; "
            "prepare it again, or set tuning.chat_template to what it was prepared with"
        )
    assert base is not None
    if tokenizer.vocab_size > model_config(base).vocab_size:
        logger.info("%d ids are new to %s: the chat template's markers", tokenizer.vocab_size - wanted.vocab_size, base)


def _language_modeling(config: Config, data: DatasetMixture) -> tuple[Config, Task]:
    """Next-token cross-entropy on the assistant's words, conversations packed by best fit and kept apart."""
    seq_len = config.training.seq_len or config.model.max_seq_len
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"packing": "best_fit", "document_masks": True}),
            "training": config.training.model_copy(update={"seq_len": seq_len}),
        }
    )
    sequences = training_data(config, data)
    return config, Task(LanguageModeling(), sequences, lambda: starting_model(config), None)


def _preferences(config: Config, data: DatasetMixture) -> tuple[Config, Task]:
    """DPO on pairs, each answer in a row of its own."""
    if len(data.datasets) > 1:
        raise ConfigError("data.mixture: pairs come from one folder; name several sources with --data instead")
    dataset = data.datasets[0]
    data.check_vocab(config.model.vocab_size)
    objective = config.tuning.objective
    assert isinstance(objective, Dpo)
    seq_len = config.training.seq_len or min(config.model.max_seq_len, longest(dataset.train))
    config = config.model_copy(update={"training": config.training.model_copy(update={"seq_len": seq_len})})
    base = config.tuning.base
    assert base is not None
    fingerprint = base_fingerprint(base)
    train_pairs = _pairs(config, dataset, "train", fingerprint, config.training.seed)
    if train_pairs.truncated or train_pairs.answerless:
        logger.warning(
            "training.seq_len = %d: %d answers are cut off; %d pairs are left out, as an answer is lost",
            seq_len,
            train_pairs.truncated,
            train_pairs.answerless,
        )
    sequences = TrainingData(
        train=train_pairs,
        validation=_held_out(config, dataset, fingerprint) if dataset.val.num_documents else None,
        # Another base is another reference.
        fingerprint=digest_of([data.fingerprint, fingerprint]),
        train_bytes_per_token=None,
        validation_bytes_per_token=None,
        rows_per_sequence=2,
    )
    return config, Task(DirectPreference(objective), sequences, lambda: starting_model(config), None)


def _held_out(config: Config, dataset: Dataset, fingerprint: str) -> FirstSequences:
    pairs = _pairs(config, dataset, "val", fingerprint, None)
    budget = config.training.eval_tokens
    return FirstSequences(pairs, pairs.per_epoch if budget is None else max(budget // (2 * pairs.seq_len), 1))


def _base(config: Config) -> Decoder:
    """The base as it is, with no adapter and nothing rounded; with the ids that the chat template brings."""
    base = config.tuning.base
    assert base is not None
    model = load(base)
    return grow_vocabulary(model, max(config.model.vocab_size, model.config.vocab_size))


def _pairs(config: Config, dataset: Dataset, name: str, fingerprint: str, seed: int | None) -> PairSequences:
    split = dataset.train if name == "train" else dataset.val
    seq_len = config.training.seq_len
    assert seq_len is not None
    device = rank_device(resolve_device(config.training.device))
    reference = reference_log_probabilities(dataset.path, split, seq_len, fingerprint, lambda: _base(config), device)
    return PairSequences(split, seq_len, seed=seed, reference=reference)
