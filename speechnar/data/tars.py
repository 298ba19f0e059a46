"""Tars from anybody: what their headers announce is bounded before it is read."""

import tarfile

MAX_HEADER_BYTES = 1 << 20
"""Of a long name, or of the attributes (pax) of a member: more than any system has names for."""
_OF_THE_NEXT = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class BoundedTarInfo(tarfile.TarInfo):
    """What `tarfile` reads at one go, names and attributes of the next member, is no larger than they can be."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "BoundedTarInfo":
        """Read a header.

        Raises:
            tarfile.ReadError: it announces too much.
        """
        info = super().frombuf(buf, encoding, errors)
        if info.type in _OF_THE_NEXT and info.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {info.size} bytes")
        return info
