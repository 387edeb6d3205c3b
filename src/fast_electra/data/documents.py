"""A document's identity and split, both from a digest of its text, and the set of the documents seen before."""

import hashlib
import struct
from collections.abc import Callable

from fast_electra.data.shards import Split
from fast_electra.data.sources import Document

_PRIME = 2**255 - 19
_BASE = int.from_bytes(hashlib.sha256(b"fast-electra documents").digest()) % _PRIME


class Digest:
    """192 bits of a text: one part identifies the document, one chooses its split, one draws tokenizer pieces."""

    def __init__(self, text: str) -> None:
        encoded = text.encode("utf-8", "surrogatepass")
        self.bytes = len(encoded)
        self.whole = hashlib.blake2b(encoded, digest_size=24).digest()
        self.identity, split, draw = struct.unpack("<3Q", self.whole)
        self.share = split / 2**64
        self.draw = draw / 2**64


class Seen:
    """A set of 64-bit numbers in 16 to 32 bytes each, by open addressing; a Python set takes 60 to 120."""

    def __init__(self) -> None:
        self._count = 0
        self._slots = memoryview(bytearray(8 << 12)).cast("Q")

    def add(self, number: int) -> bool:
        """Add a number; False if the set had it already."""
        number = number or 1  # 0 marks a free slot
        if 2 * self._count >= len(self._slots):
            old, self._slots = self._slots, memoryview(bytearray(16 * len(self._slots))).cast("Q")
            for kept in old:
                if kept:
                    self._slots[self._place(kept)] = kept
        place = self._place(number)
        if self._slots[place] == number:
            return False
        self._slots[place] = number
        self._count += 1
        return True

    def _place(self, number: int) -> int:
        slots, last = self._slots, len(self._slots) - 1
        place = number & last
        while slots[place] not in (0, number):
            place = (place + 1) & last
        return place


class StreamDigest:
    """A digest of a stream of documents: every text, its order and its split.

    It is a polynomial over the documents' digests, so the digest of two streams in a row follows from theirs.
    """

    def __init__(self, hexdigest: str = "0", documents: int = 0) -> None:
        """Begin with an empty stream, or with the digest of a stream and its number of documents."""
        self._value, self.documents = int(hexdigest, 16), documents

    def add(self, entry: bytes) -> None:
        """Add a document: the digest of its text, and its split."""
        self._value = (self._value * _BASE + int.from_bytes(hashlib.sha256(entry).digest())) % _PRIME
        self.documents += 1

    def join(self, other: "StreamDigest") -> None:
        """Add all documents of another stream."""
        self._value = (self._value * pow(_BASE, other.documents, _PRIME) + other._value) % _PRIME
        self.documents += other.documents

    def hexdigest(self) -> str:
        """The digest as 64 hexadecimal digits."""
        return f"{self._value:064x}"


class Splitter:
    """Chooses the split of each document, and digests the stream."""

    def __init__(self, fraction: float, validation: Callable[[Document], bool] | None) -> None:
        self._fraction = fraction
        self._validation = validation
        self._stream = StreamDigest()
        self.smallest_share = 1.0

    def __call__(self, document: Document, digest: Digest) -> Split:
        """The split of the next document of the stream."""
        held_out = digest.share < self._fraction if self._validation is None else bool(self._validation(document))
        self._stream.add(digest.whole + (b"v" if held_out else b"t"))
        self.smallest_share = min(self.smallest_share, digest.share)
        return "validation" if held_out else "train"

    def hexdigest(self) -> str:
        """The `StreamDigest` of the documents so far."""
        return self._stream.hexdigest()
