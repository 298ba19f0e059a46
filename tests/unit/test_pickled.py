import io
import tarfile
import zipfile

import pytest
import torch

from speechnar.errors import CheckpointError
from speechnar.interop.files import read_tensors
from speechnar.pickled import load_pickled
from speechnar.train.checkpoint import load_checkpoint


@pytest.mark.parametrize("new", [True, False])
def test_both_forms_of_today_are_read(tmp_path, new):
    torch.save({"x": torch.arange(3)}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    assert load_pickled(tmp_path / "a.pt")["x"].tolist() == [0, 1, 2]


def test_an_archive_with_a_link_is_not_unpacked(tmp_path):
    with tarfile.open(tmp_path / "a.pt", "w") as archive:
        link = tarfile.TarInfo("storages")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        content = tarfile.TarInfo("pickle")
        content.size = 3
        archive.addfile(content, io.BytesIO(b"abc"))
    with pytest.raises(ValueError, match="is a tar archive"):
        load_pickled(tmp_path / "a.pt")


def test_archives_that_grow_are_not_unpacked(tmp_path):
    torch.save({"x": torch.zeros(1_000_000)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as stored,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in stored.infolist():
            packed.writestr(record.filename, stored.read(record))
    assert (tmp_path / "b.pt").stat().st_size < 20_000
    for read in (load_pickled, load_checkpoint, lambda path: read_tensors(path, [])):
        with pytest.raises((ValueError, CheckpointError), match="unpacks to 40"):
            read(tmp_path / "b.pt")


@pytest.mark.parametrize("content", [b"", b"\x80", b"no checkpoint at all" * 100])
def test_others_fail_as_torch_has_it(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(Exception) as caught:  # of any class
        load_pickled(tmp_path / "a.pt")
    assert "tar" not in str(caught.value)
