"""A library that does not belong to this package is refused in one line, with what mends it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from smidgen.edge.library import EdgeError, library


@pytest.fixture
def fresh() -> Iterator[None]:
    """`library` as in a new process, here and afterwards."""
    library.cache_clear()
    yield
    library.cache_clear()


@pytest.mark.parametrize(("kind", "complaint"), [("foreign", "edge_abi_version"), ("damaged", "")])
def test_a_library_of_another_state_names_itself_once_and_the_remedy(
    kind: str, complaint: str, fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "lib.so"
    if kind == "foreign":
        import _ctypes

        shutil.copy(_ctypes.__file__, path)
    else:
        path.write_bytes(b"no library")
    monkeypatch.setenv("SMIDGEN_EDGE_LIBRARY", str(path))
    with pytest.raises(EdgeError, match="cannot be used") as caught:
        library()
    message = str(caught.value)
    assert complaint in message
    assert message.endswith("run 'make native' to build it again")
    assert message.count(str(path)) == 1
