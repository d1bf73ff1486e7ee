"""Parameter counts are the published table's, to the unit; FLOPs and caches follow their formulas."""

from __future__ import annotations

import pytest

from smidgen.config import load_config, preset_names
from smidgen.model import Decoder, cache_elements_per_token, count_by_part, count_parameters, flops_per_token

PUBLISHED = {
    "tilda-70m": 70_730_752,
    "tinylm-300m": 297_950_208,
    "tinylm-gqa-300m": 303_442_944,
    "elite-112m": 112_085_760,
    "gemma3-270m": 268_098_176,
    "gemma3-tinystories": 132_490_496,
    "rscalm-138m": 137_841_408,
    "rscalm-350m": 350_536_704,
    "rscalm-700m": 706_888_960,
}
TINY = [name for name in preset_names() if name.endswith("-tiny")]


@pytest.mark.parametrize(("preset", "parameters"), PUBLISHED.items())
def test_parameters_of_the_full_presets(preset: str, parameters: int) -> None:
    assert count_parameters(load_config(preset).model) == parameters


@pytest.mark.parametrize("preset", TINY)
def test_tiny_presets_stay_under_five_million(preset: str) -> None:
    assert count_parameters(load_config(preset).model) < 5_000_000


def test_there_is_a_tiny_preset_of_every_architecture() -> None:
    assert {f"{n}-tiny" for n in ("tilda", "tinylm", "tinylm-gqa", "elite", "gemma3", "rscalm")} <= set(TINY)


@pytest.mark.parametrize("preset", TINY)
def test_counting_agrees_with_the_module(preset: str) -> None:
    model = load_config(preset, {"model.vocab_size": 101, "model.vocab_padding_multiple": 64}).model
    decoder = Decoder(model)
    padding = (model.padded_vocab_size - model.vocab_size) * model.hidden_size
    tables = 1 if model.tie_word_embeddings else 2
    assert count_parameters(model) == sum(p.numel() for p in decoder.parameters()) - tables * padding


def test_parts_add_up_by_hand() -> None:
    parts = count_by_part(load_config("elite-112m").model)
    assert parts["embedding"] == 49152 * 768
    assert parts["attention"] == 12 * (768 * 768 * 2 + 768 * 192 * 2)
    assert parts["feed_forward"] == 12 * 3 * 768 * 2048
    assert parts["norms"] == 25 * 768
    assert parts["head"] == 0


def test_flops_by_hand() -> None:
    model = load_config("elite-112m").model
    matrices = 112_085_760 - 25 * 768
    attention = 12 * 2 * 12 * 64 * (2048 + 1) / 2
    assert flops_per_token(model, 2048) == round(6 * (matrices + attention))


def test_a_window_bounds_the_flops_of_attention() -> None:
    model = load_config("gemma3-270m").model
    full = load_config(
        "gemma3-270m",
        {
            "model.layer_pattern": ["full"],
            "model.attention.sliding_window": None,
            "model.attention.sliding_rope_theta": None,
        },
    ).model
    assert flops_per_token(model, 256) == flops_per_token(full, 256)
    attention, full_attention = (flops_per_token(m, 8192) - flops_per_token(m, 1) for m in (model, full))
    assert 0.25 < attention / full_attention < 0.3  # three full layers of 18, and 15 windows of 512


def test_the_latent_cache_is_an_eighth_of_the_naive_one() -> None:
    assert cache_elements_per_token(load_config("tilda-70m").model) == 12 * 160
    naive = load_config("tilda-70m", {"model.attention.cache": "naive"}).model
    assert cache_elements_per_token(naive) == 12 * 1280
