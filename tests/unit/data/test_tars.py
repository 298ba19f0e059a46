"""Headers of tars that announce too much."""

import io
import tarfile

import pytest

from speechnar.data.tars import MAX_HEADER_BYTES, BoundedTarInfo


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("size", [MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1])
def test_names_and_attributes_are_bounded(kind, size):
    info = tarfile.TarInfo("name")
    info.type, info.size = kind, size
    header = info.tobuf(tarfile.GNU_FORMAT)
    if size <= MAX_HEADER_BYTES:
        assert BoundedTarInfo.frombuf(header, "utf-8", "surrogateescape").size == size
        return
    with pytest.raises(tarfile.ReadError, match=f"a header of {size} bytes"):
        BoundedTarInfo.frombuf(header, "utf-8", "surrogateescape")


def test_long_names_are_read(tmp_path):
    path, name = tmp_path / "a.tar", "folder/" * 40 + "a.txt"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"text"))
    with tarfile.open(path, tarinfo=BoundedTarInfo) as tar:
        assert tar.getnames() == [name]
