"""What SOURCE arguments mean, and how each kind of source is read."""

from smidgen.data.sources.base import CHUNK_BYTES, Chunk, Digest, Item, Reading, Source
from smidgen.data.sources.generated import STORYWORLD
from smidgen.data.sources.naming import FileSource, SourceOptions, find_files, open_sources

__all__ = [
    "CHUNK_BYTES",
    "STORYWORLD",
    "Chunk",
    "Digest",
    "FileSource",
    "Item",
    "Reading",
    "Source",
    "SourceOptions",
    "find_files",
    "open_sources",
]
