"""From text to a dataset folder: read the sources, train or load the tokenizer, encode on all cores, publish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.data.dataset import Dataset
from smidgen.data.manifest import Manifest
from smidgen.data.pipeline.finishing import PART_NAME, PartDescription
from smidgen.data.pipeline.request import Request
from smidgen.data.pipeline.run import Run
from smidgen.data.pipeline.sinks import Totals
from smidgen.data.writing import check_replaceable, publish

if TYPE_CHECKING:
    from smidgen.config import TokenizerConfig

Progress = Callable[[str, int, int], None]
"""Told (stage, bytes done, bytes in all) often; stages are `reading`, `training the tokenizer`, `encoding`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The outcome of `prepare`."""

    dataset: Dataset
    manifest: Manifest
    already_prepared: bool
    """The folder was there, made of the same sources with the same options; nothing was done."""


@dataclass(frozen=True, slots=True)
class PreparedPart:
    """The outcome of `prepare_part`."""

    path: Path
    description: PartDescription
    totals: Totals | None
    """None for a part that was there already."""


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    tokenizer: TokenizerConfig,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **request: Any,
) -> Prepared:
    """Turn text into the dataset folder `out`; the same input gives the same bytes, on however many cores.

    sources: files, folders, globs, `-` (standard input), `hf:owner/name`, or `storyworld`; see `sources.open_sources`.
    tokenizer: with a path it is loaded, else trained, on the training documents only (characters: the alphabet of
        all documents, as nanoGPT does).
    overwrite: replace a dataset folder that was made of other sources or options.
    request: the fields of `pipeline.request.Request`.

    Each document ends with the tokenizer's end-of-text token. A tokenizer without one (characters) sees documents
    followed by what separated them in the file, so that their ids are those of the file.

    Raises DataError and TokenizerError naming file and line, value, and remedy. Whatever happens, `out` is either
    whole or as it was before. A run that was killed or interrupted leaves its work in a hidden folder beside `out`;
    the same call goes on from there.
    """
    run = Run(sources, Path(out), tokenizer, Request(**request), progress, None)
    replaces = check_replaceable(run.target)
    with run.working() as folder:
        run.open(folder)
        if replaces and not overwrite:
            return Prepared(*run.existing(), already_prepared=True)
        manifest = run.make_dataset()
        publish(folder, run.target)
    return Prepared(Dataset.open(run.target), manifest, already_prepared=False)


def prepare_part(
    sources: Sequence[str | Path],
    out: str | Path,
    tokenizer: TokenizerConfig,
    shard: tuple[int, int],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **request: Any,
) -> PreparedPart:
    """Do one of several equal parts of what `prepare` does; `merge_parts` makes the dataset folder of all of them.

    shard: number of the part (from 0), and how many there are. tokenizer: an existing one. The rest is `prepare`'s.
    """
    run = Run(sources, Path(out), tokenizer, Request(**request), progress, shard)
    check_replaceable(run.target)
    with run.working() as folder:
        run.open(folder)
        if (run.target / PART_NAME).exists() and not overwrite:
            return PreparedPart(run.target, run.existing_part(), None)
        description, totals = run.make_part()
        publish(folder, run.target)
    return PreparedPart(run.target, description, totals)
