"""From dataset folders and a configuration to a run: mixtures, packing, and what a run refuses to go on with."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.config import Config, TokenizerConfig
from smidgen.data import prepare
from smidgen.runtime.errors import DataError, SmidgenError, TrainingError
from smidgen.training.pretraining import open_dataset, pretrain, resolve, training_data

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets `cats` and `dogs` of one tokenizer, and `other` of another."""
    root = tmp_path_factory.mktemp("pretraining")
    for name in ("cats", "dogs", "other"):
        lines = [f"Tom has {n} red {name} and {n + 1} blue {name}, or so he says to all of us." for n in range(60)]
        (root / f"{name}.txt").write_text("\n".join(lines))
    first = TokenizerConfig(kind="byte_bpe", vocab_size=300)
    tokenizer = prepare([root / "cats.txt"], root / "cats", first, split_documents="line").dataset.path / "tokenizer"
    shared = TokenizerConfig(kind="byte_bpe", path=str(tokenizer))
    prepare([root / "dogs.txt"], root / "dogs", shared, split_documents="line")
    smaller = TokenizerConfig(kind="byte_bpe", vocab_size=280)
    prepare([root / "other.txt"], root / "other", smaller, split_documents="line")
    return root


@pytest.fixture
def configured(make_config: MakeConfig, folders: Path) -> Callable[..., Config]:
    def make(**fields: Any) -> Config:
        named = {f"data.{name}": value for name, value in fields.items()}
        return make_config(**{"max_steps": 4, "checkpoint_every": 4, "eval_tokens": 96, **named})

    return make


def both(folders: Path, cats: float, dogs: float) -> dict[str, float]:
    return {str(folders / "cats"): cats, str(folders / "dogs"): dogs}


def test_a_mixture_resumes_to_the_bit_and_the_run_knows_its_data(
    configured: Callable[..., Config], folders: Path, tmp_path: Path, stop_at: type[Any]
) -> None:
    config = configured(mixture=both(folders, 3, 1), packing="best_fit")
    whole = pretrain(config, tmp_path / "whole")
    assert whole.best_validation_loss is not None
    assert pretrain(config, tmp_path / "parts", stop_at(2)).steps == 2
    assert pretrain(configured(packing="best_fit"), tmp_path / "parts").steps_taken == 2
    one, other = (smidgen.load(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_mixtures_figures_are_those_of_its_shares(configured: Callable[..., Config], folders: Path) -> None:
    def data(**fields: Any) -> Any:
        config = configured(**fields)
        mixture = open_dataset(config)
        return training_data(resolve(config, mixture), mixture)

    cats, dogs = data(path=str(folders / "cats")), data(path=str(folders / "dogs"))
    mixed = data(mixture=both(folders, 3, 1))
    assert mixed.train.per_epoch == cats.train.per_epoch + dogs.train.per_epoch
    assert mixed.validation.per_epoch == cats.validation.per_epoch == dogs.validation.per_epoch == 4
    for name in ("train_bytes_per_token", "validation_bytes_per_token"):
        assert getattr(cats, name) != getattr(dogs, name)
        assert math.isclose(getattr(mixed, name), 0.75 * getattr(cats, name) + 0.25 * getattr(dogs, name))
    assert mixed.fingerprint not in {cats.fingerprint, dogs.fingerprint}
    # The order in which folders are named decides nothing.
    swapped = data(mixture=dict(reversed(both(folders, 3, 1).items())))
    assert (swapped.train.batch(0, 9).input_ids == mixed.train.batch(0, 9).input_ids).all()


@pytest.mark.parametrize(("seq_len", "level"), [(1, logging.INFO), (24, logging.WARNING)])
def test_best_fit_packs_documents_and_reports_its_padding(
    configured: Callable[..., Config], folders: Path, caplog: pytest.LogCaptureFixture, seq_len: int, level: int
) -> None:
    config = configured(path=str(folders / "cats"), packing="best_fit")
    training = config.training.model_copy(update={"seq_len": seq_len})
    data = open_dataset(config)
    with caplog.at_level(logging.INFO):
        sequences = training_data(resolve(config.model_copy(update={"training": training}), data), data).train
    batch = sequences.batch(0, sequences.per_epoch)
    assert batch.document_ids is not None
    padding = (batch.labels == -100).mean()
    (record,) = caplog.records
    assert f"{sequences.per_epoch} sequences an epoch, {100 * padding:.2f} % of their positions" in record.getMessage()
    assert record.levelno == level


def test_a_model_of_whole_documents_is_validated_on_whole_documents(
    configured: Callable[..., Config], folders: Path
) -> None:
    """Each document's first token is no label, so packed documents have a label fewer each than tokens."""
    config = configured(path=str(folders / "cats"), packing="best_fit")
    training = config.training.model_copy(update={"eval_tokens": None})
    data = open_dataset(config)
    sequences = training_data(resolve(config.model_copy(update={"training": training}), data), data).validation
    assert sequences is not None
    held_out = data.datasets[0].val
    labels = sequences.batch(0, sequences.per_epoch).labels
    assert (labels != -100).sum() == held_out.num_tokens - held_out.num_documents


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"packing": "best_fit"}, TrainingError, r"data\.packing \(split → best_fit\); keep the old value"),
        (
            {"path": "other"},
            DataError,
            r"other: was prepared with another tokenizer \(byte_bpe, 280 ids, fingerprint [0-9a-f]{12}\) than that "
            r"of .*run \(byte_bpe, 300 ids, fingerprint [0-9a-f]{12}\); prepare the text again with --tokenizer\.path",
        ),
        ({"path": "dogs"}, TrainingError, "not the data that .* was trained on"),
        ({"path": None, "mixture": "both"}, TrainingError, "not the data that .* was trained on"),
    ],
)
def test_a_run_goes_on_only_with_its_own_sequences_and_tokenizer(
    configured: Callable[..., Config],
    folders: Path,
    tmp_path: Path,
    fields: dict[str, Any],
    error: type[SmidgenError],
    message: str,
) -> None:
    pretrain(configured(path=str(folders / "cats")), tmp_path / "run")
    changed = {"path": "cats", **fields}
    changed["path"] = None if changed["path"] is None else str(folders / changed["path"])
    if "mixture" in changed:
        changed["mixture"] = both(folders, 1, 1)
    with pytest.raises(error, match=message) as raised:
        pretrain(configured(**changed), tmp_path / "run")
    assert "\n" not in str(raised.value)
