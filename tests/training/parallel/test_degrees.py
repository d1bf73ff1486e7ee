"""Which divisions of a model and a batch are possible, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest

from smidgen.config import load_config
from smidgen.runtime.errors import ConfigError
from smidgen.training.parallel import Degrees, resolve_degrees


def degrees(world_size: int, preset: str = "elite-tiny", **fields: Any) -> Degrees:
    overrides = {name.replace("__", "."): value for name, value in fields.items()}
    return resolve_degrees(load_config(preset, overrides), world_size)


def test_left_alone_every_rank_is_a_replica() -> None:
    assert degrees(1) == Degrees(1, 1, 1)
    assert degrees(4) == Degrees(4, 1, 1)


def test_replicas_take_the_ranks_that_are_left() -> None:
    assert degrees(8, training__parallel__shard=2, training__parallel__tensor=2) == Degrees(2, 2, 2)


def test_one_key_head_is_shared_by_all_tensor_ranks() -> None:
    assert degrees(2, "gemma3-tiny", training__parallel__tensor=2).tensor == 2


@pytest.mark.parametrize(
    ("world_size", "fields", "message"),
    [
        (4, {"training__parallel__shard": 3}, r"shard × tensor = 3 × 1: 4 ranks are started.*no multiple of 3"),
        (
            1,
            {"training__parallel__shard": 2},
            r"1 rank is started; start 2 with 'torchrun --nproc-per-node 2 -m -- smidgen",
        ),
        (4, {"training__parallel__data": 2}, r"4 ranks are started; start 2"),
        (3, {}, r"training.batch_size = 16: .*3 data-parallel ranks; use a multiple of 3"),
        (8, {"training__parallel__tensor": 8}, r"tensor = 8: .*num_heads 4; use one of \[1, 2, 4\]"),
        (
            4,
            {"training__parallel__tensor": 4, "model__attention__num_heads": 12, "model__attention__num_kv_heads": 6},
            r"num_kv_heads 6; use one of \[1, 2, 3, 6\]",
        ),
        (4, {"training__parallel__tensor": 4, "model__feed_forward__intermediate_size": 386}, r"intermediate_size 386"),
        (2, {"training__parallel__tensor": 2, "model__vocab_size": 4095}, r"4095 rows.*vocab_padding_multiple"),
        (
            2,
            {"training__parallel__tensor": 2, "model__vocab_size": 10, "model__vocab_padding_multiple": 64},
            r"vocab_padding_multiple = 64: leaves the last of 2 ranks nothing",
        ),
        (2, {"training__parallel__tensor": 2, "training__seq_len": 33}, r"training.seq_len 33"),
        (
            2,
            {"training__parallel__tensor": 2, "tuning__base": "base", "tuning__lora__rank": 2},
            r"tensor = 2: tuning.lora puts adapters on whole projections; use data or shard",
        ),
        (
            2,
            {
                "training__parallel__tensor": 2,
                "tuning__objective__kind": "distillation",
                "tuning__objective__teacher": "base",
            },
            r"tensor = 2: distillation needs the student's head whole; use data or shard",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(world_size: int, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        degrees(world_size, **fields)
