from __future__ import annotations

from typing import Any

import pytest

from smidgen.config import dump_config, load_config
from smidgen.config.run import Config
from smidgen.runtime.errors import ConfigError


def configured(*flags: str) -> Config:
    return load_config("elite-tiny", list(flags))


def test_a_mixture_is_a_mapping_that_overrides_and_files_can_give() -> None:
    config = configured("--data.mixture", "{data/web.v2: 0.7, data/code: 3}")
    assert config.data.mixture == {"data/web.v2": 0.7, "data/code": 3}
    assert "data/web.v2: 0.7" in dump_config(config)
    changed = configured("--data.mixture", "{web: 1, code: 1}", "--data.mixture.code", "0")
    assert changed.data.mixture == {"web": 1, "code": 0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data.path": "a", "data.mixture": {"b": 1}}, "data.mixture = .*data.path is set too"),
        ({"data.mixture": {"b": 0}}, "data.mixture = .* gives no folder a weight above 0"),
        ({"data.mixture": {}}, "data.mixture = .* gives no folder a weight above 0"),
        ({"data.mixture": {"b": -1}}, "data.mixture.b = -1: input should be greater than or equal to 0"),
        ({"data.mixture": {"b": float("inf")}}, "data.mixture.b = inf: input should be a finite number"),
        ({"data.mixture": ["a", "b"]}, "data.mixture = .*should be a valid dictionary"),
        (
            {"data.packing": "best_fit", "data.sampling": "random_windows"},
            "data.packing = best_fit: goes with sampling",
        ),
        ({"data.packing": "best_fit", "data.document_masks": False}, "data.packing = best_fit: .* document_masks true"),
    ],
)
def test_what_cannot_stand_together_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("elite-tiny", fields)
