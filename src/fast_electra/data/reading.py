"""Counts of what was read of a corpus, and of what was lost on the way."""

from dataclasses import dataclass
from typing import BinaryIO


@dataclass
class Reading:
    """Counts of what was read; they grow while the stream is read."""

    files: int = 0
    """files read to their end"""
    left_out_files: int = 0
    """files in folders whose names are not read, and links"""
    links: int = 0
    """the links among them"""
    replaced_files: int = 0
    """files with bytes that are not UTF-8, or with NUL bytes, which became U+FFFD"""
    replaced_characters: int = 0
    """number of U+FFFD that these bytes became"""
    cut_documents: int = 0
    """cuts made in documents of more than `LARGEST_DOCUMENT` bytes"""
    bytes_done: int = 0
    """bytes of the files that are closed, and of data sets"""
    open_file: BinaryIO | None = None
    """the file on disk that is being read"""

    @property
    def bytes_read(self) -> int:
        """Bytes on disk read so far, for a progress display."""
        return self.bytes_done + (self.open_file.tell() if self.open_file else 0)


def reading_losses(
    left_out_files: int, replaced_files: int, replaced_characters: int, cut_documents: int
) -> dict[str, str]:
    """A description of each loss of text that occurred, by its kind."""
    found = {
        "files left out": (left_out_files, f"{left_out_files:,} (links, or names that are not read)"),
        "not UTF-8": (
            replaced_files,
            f"{replaced_characters:,} characters in {replaced_files:,} files became U+FFFD "
            "(data.invalid_utf8=refuse stops at the first one)",
        ),
        "cut": (cut_documents, f"{cut_documents:,} times in documents of over 16 MB"),
    }
    return {name: sentence for name, (count, sentence) in found.items() if count}
