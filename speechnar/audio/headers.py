"""What the header of a recording says of its length, and whether its data are all there."""

import io
import os
import re
from typing import BinaryIO

import soundfile

TAIL_BYTES = 1 << 17
"""More than the longest page of Ogg."""
_MAX_PAGE_HEADER = 27
_IS_LAST = 0x04
# In libsndfile's log, of a chunk whose size is not what the file has room for.
_SIZE = re.compile(r": (\d+) \(should be (\d+)\)")
# Whoever writes to a pipe does not know the size, and puts in the largest, or what they think is large enough.
_UNKNOWN_SIZE = 0x7F00_0000
SHARE_THAT_COUNTS = 0.99
_ANY_SIZE = 0xFFFF_FFFF
"""At which libsndfile reads to the end of the file."""
_CHUNK_HEAD = 8
_MAX_CHUNKS = 100


def is_cut(sound: soundfile.SoundFile, file: BinaryIO, num_read: int) -> bool:
    """Return whether a file ends before its header says, or without the mark of its end.

    Args:
        sound: what was read, to its end.
        file: the same, whose place is changed.
        num_read: samples of each channel that it had.
    """
    if num_read < SHARE_THAT_COUNTS * sound.frames:
        return True
    if sound.format == "OGG":
        return not _has_last_page(file)
    sizes = [(int(told), int(there)) for told, there in _SIZE.findall(sound.extra_info)]
    return any(there < SHARE_THAT_COUNTS * told and told < _UNKNOWN_SIZE for told, there in sizes)


def looks_like_mp3(head: bytes) -> bool:
    """Return whether a file begins as one of MPEG audio does, or with a tag in front of it."""
    return head.startswith(b"ID3") or (len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0)


class UnendedWav(io.RawIOBase):
    """A WAV file whose data have a size of 0 in its header, read as if they had one without end.

    Recorders write 0 first and the size last, which they never come to when the battery dies.
    """

    def __init__(self, file: BinaryIO, place: int) -> None:
        self._file = file
        self._place = place

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]  # the type is not public
        """Read what the file holds, but for the four bytes of that size."""
        start = self._file.tell()
        content = bytearray(self._file.read(len(buffer)))
        size = _ANY_SIZE.to_bytes(4, "little")
        for i in range(max(start, self._place), min(start + len(content), self._place + 4)):
            content[i - start] = size[i - self._place]
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go elsewhere, as in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return where the file is."""
        return self._file.tell()


def find_unknown_size(file: BinaryIO) -> int | None:
    """Return where a WAV file says that its data have no byte although some follow; None: it does not say so.

    Args:
        file: any, whose place is changed.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    place = 12
    found = None
    # What follows data of no byte is sound, unless it is further chunks that end where the file does.
    for _ in range(_MAX_CHUNKS):
        if place >= end:
            return found if place > end + 1 else None
        file.seek(place)
        name, size = (chunk := file.read(_CHUNK_HEAD))[:4], int.from_bytes(chunk[4:], "little")
        if len(chunk) < _CHUNK_HEAD or not (name.isascii() and name.decode("ascii", "replace").isprintable()):
            return found
        if name == b"data" and found is None:
            if size or place + _CHUNK_HEAD == end:
                return None
            found = place + 4
        place += _CHUNK_HEAD + size + size % 2
    return found


def _has_last_page(file: BinaryIO) -> bool:
    size = file.seek(0, 2)
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read(TAIL_BYTES)
    place = tail.rfind(b"OggS")
    return 0 <= place <= len(tail) - _MAX_PAGE_HEADER and bool(tail[place + 5] & _IS_LAST)
