"""What the header of a recording says of its length, and whether its data are all there."""

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


def _has_last_page(file: BinaryIO) -> bool:
    size = file.seek(0, 2)
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read(TAIL_BYTES)
    place = tail.rfind(b"OggS")
    return 0 <= place <= len(tail) - _MAX_PAGE_HEADER and bool(tail[place + 5] & _IS_LAST)
