import gzip
import hashlib
import io
import re
import tarfile
import threading
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from speechnar.cli.main import main
from speechnar.data import download
from speechnar.data.download import extract_archive, fetch, find_corpus, unpacked_corpus
from speechnar.errors import DataError
from tests.fuzz import write_case

CONTENT = b"some bytes" * 1000


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/missing":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT) + (10 if self.path == "/cut" else 0)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, target="target"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_fetch_writes_once_and_checks_the_sum(server, tmp_path):
    dest = tmp_path / "deep/file"
    assert fetch(f"{server}/file", dest, hashlib.sha256(CONTENT).hexdigest()) == dest
    assert dest.read_bytes() == CONTENT
    assert [path.name for path in dest.parent.iterdir()] == ["file"]
    dest.write_bytes(b"changed")
    assert fetch(f"{server}/missing", dest).read_bytes() == b"changed"  # there already: not fetched again
    with pytest.raises(DataError, match="sha256"):
        fetch(f"{server}/file", dest, "0" * 64)


def test_sums_that_are_known_are_expected(server, tmp_path, monkeypatch):
    monkeypatch.setitem(download.SUMS, f"{server}/file", hashlib.sha256(CONTENT).hexdigest())
    fetch(f"{server}/file", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.setitem(download.SUMS, f"{server}/other", "0" * 64)
    with pytest.raises(DataError, match=f"sha256 must be {'0' * 64}, got"):
        fetch(f"{server}/other", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_sum_may_be_md5(server, tmp_path, monkeypatch):
    monkeypatch.setitem(download.SUMS, f"{server}/file", hashlib.md5(CONTENT).hexdigest())
    fetch(f"{server}/file", tmp_path / "file")
    (tmp_path / "file").write_bytes(b"changed")
    with pytest.raises(DataError, match=f"md5 must be {hashlib.md5(CONTENT).hexdigest()}, got"):
        fetch(f"{server}/file", tmp_path / "file")


def test_a_sum_that_is_not_known_is_noted_and_expected_from_then_on(server, tmp_path, caplog):
    fetch(f"{server}/file", tmp_path / "file")
    expected = hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "file.sha256").read_text() == f"{expected}  file\n"  # as sha256sum -c reads it
    assert f"nobody has verified it: sha256 {expected}" in caplog.text
    fetch(f"{server}/file", tmp_path / "file")
    (tmp_path / "file").write_bytes(b"changed")
    with pytest.raises(DataError, match="sha256 must be"):
        fetch(f"{server}/file", tmp_path / "file")


def test_nothing_that_is_asked_for_by_https_comes_by_another_way(server, tmp_path, monkeypatch):
    opened = urllib.request.urlopen
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: opened(f"{server}/file", timeout=timeout))
    with pytest.raises(DataError, match="sent on to http://"):
        fetch("https://example.org/file", tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_sums_are_those_of_torchaudio():
    datasets = pytest.importorskip("torchaudio.datasets")
    sums = {**datasets.librispeech._CHECKSUMS, **datasets.libritts._CHECKSUMS}
    theirs = {url.replace("http://", "https://"): value for url, value in sums.items()}
    assert {url: value for url, value in download.SUMS.items() if url in theirs} == theirs


def test_archives_of_asterisk_are_known_by_the_names_that_recipes_fetch():
    recipes = Path(__file__).parents[3] / "recipes"
    scripts = ("asterisk/s2t/local/fetch_asterisk.py", "opsound/music/local/fetch_opsound.py")
    text = "".join((recipes / script).read_text(encoding="utf-8") for script in scripts)
    (site,), (version,), (archive,) = (set(re.findall(f'{n} = "(.+)"', text)) for n in ("SITE", "VERSION", "ARCHIVE"))
    names = [f"asterisk-core-sounds-{code}-g722-{version}.tar.gz" for code in ("en", "es", "fr", "it", "ru")]
    assert {url for url in download.SUMS if "asterisk" in url} == {f"{site}/{name}" for name in (*names, archive)}


@pytest.mark.parametrize(("path", "message"), [("/missing", "404"), ("/cut", "of 10010 bytes|cannot be fetched")])
def test_failed_fetch_leaves_no_file(server, tmp_path, path, message):
    with pytest.raises(DataError, match=message):
        fetch(server + path, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_fetch_takes_only_http(tmp_path):
    with pytest.raises(DataError, match="http"):
        fetch("file:///etc/passwd", tmp_path / "file")


def test_command_line(server, tmp_path, capsys):
    assert main(["data", "download", f"{server}/file", str(tmp_path / "file")]) == 0
    assert main(["data", "download", f"{server}/missing", str(tmp_path / "other")]) == 1
    assert "\nspeechnar: " in capsys.readouterr().err


def test_tar_and_zip_come_out(tmp_path):
    tar = make_tar(tmp_path / "a.tar.gz", [("x/one", b"1"), ("two", b"2")])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr("x/one", b"1")
        bundle.writestr("two", b"2")
    for archive in (tar, tmp_path / "a.zip"):
        dest = extract_archive(archive, tmp_path / f"{archive.suffix}-out")
        assert (dest / "x/one").read_bytes() == b"1"
        assert (dest / "two").read_bytes() == b"2"
    assert extract_archive(archive, dest) == extract_archive(tmp_path / "gone.tar", dest) == dest  # unpacked already
    with pytest.raises(DataError, match="another archive"):
        extract_archive(tar, dest)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("../escape", "outside"),
        ("x/../../escape", "outside"),
        ("/absolute", "outside"),
        ("..\\escape", "outside"),
        (special("link", tarfile.SYMTYPE, "/etc"), "regular file"),
        (special("hard", tarfile.LNKTYPE), "regular file"),
        (special("pipe", tarfile.FIFOTYPE), "regular file"),
    ],
)
def test_hostile_tar_is_refused(tmp_path, member, message):
    archive = make_tar(tmp_path / "bad.tar.gz", [("good", b"1"), (member, b"")])
    with pytest.raises(DataError, match=message):
        extract_archive(archive, tmp_path / "in/out")
    assert not (tmp_path / "in/out").exists()
    assert not (tmp_path / "in/escape").exists()
    assert not (tmp_path / "escape").exists()


def test_hostile_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bundle:
        bundle.writestr("../escape", b"1")
    with pytest.raises(DataError, match="outside"):
        extract_archive(tmp_path / "bad.zip", tmp_path / "out")
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as bundle:
        bundle.writestr(link, b"/etc")
    with pytest.raises(DataError, match="links"):
        extract_archive(tmp_path / "link.zip", tmp_path / "out")


def test_bombs_are_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MIN_JUDGED_BYTES", 1 << 16)
    bomb = make_tar(tmp_path / "bomb.tar.gz", [("zeros", bytes(1 << 22))])
    with pytest.raises(DataError, match="far more"):
        extract_archive(bomb, tmp_path / "out")
    monkeypatch.setattr(download, "MAX_MEMBERS", 2)
    with pytest.raises(DataError, match="more than 2 files"):
        extract_archive(make_tar(tmp_path / "many.tar.gz", [(str(i), b"") for i in range(3)]), tmp_path / "out")


def test_folders_without_end_are_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MIN_JUDGED_BYTES", 1 << 16)
    bomb = make_tar(tmp_path / "bomb.tar.gz", [(special("folder", tarfile.DIRTYPE), b"")] * 5000)
    with pytest.raises(DataError, match="far more"):
        extract_archive(bomb, tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_names_without_end_are_not_read(tmp_path, kind):
    (first, second), info = (tarfile.TarInfo(name) for name in ("first", "second")), tarfile.TarInfo("name")
    info.type, info.size = kind, 8 << 30
    (tmp_path / "a.tar.gz").write_bytes(
        gzip.compress(b"".join(each.tobuf(tarfile.GNU_FORMAT) for each in (first, second, info)) + bytes(1 << 20))
    )
    with pytest.raises(DataError, match="a header of 8589934592 bytes"):
        extract_archive(tmp_path / "a.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match="tar or zip"):
        extract_archive(tmp_path / "file", tmp_path / "out")


def test_damage_inside_is_an_error_of_ours(tmp_path):
    for seed in (1178, 3380, 3410):  # of the fuzzer, which found zlib's errors, and those of names without a letter
        folder = tmp_path / str(seed)
        folder.mkdir()
        write_case("archive", seed, folder)
        with pytest.raises(DataError, match="cannot be unpacked"):
            extract_archive(folder / "a.archive", folder / "out")


def test_cut_archive_is_refused_and_can_be_retried(tmp_path):
    whole = make_tar(tmp_path / "a.tar.gz", [("one", bytes(range(256)) * 500), ("two", b"2")])
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be unpacked"):
        extract_archive(whole, tmp_path / "out")
    whole.write_bytes(content)
    assert (extract_archive(whole, tmp_path / "out") / "two").read_bytes() == b"2"


def test_corpus_is_found_by_path_then_by_name(tmp_path, monkeypatch):
    archive = make_tar(tmp_path / "corpus.tar.gz", [("top/inner/etc/list", b"x")])
    monkeypatch.delenv("SPEECHNAR_CORPORA", raising=False)
    with pytest.raises(DataError, match="not set"):
        find_corpus("corpus.tar.gz")
    monkeypatch.setenv("SPEECHNAR_CORPORA", str(tmp_path))
    assert find_corpus("corpus.tar.gz") == archive
    with pytest.raises(DataError, match="other"):
        find_corpus("other")
    root = unpacked_corpus("corpus.tar.gz", tmp_path / "to", holds="etc/list")
    assert root == tmp_path / "to/corpus/top/inner"
    assert unpacked_corpus(root, tmp_path / "to", holds="etc/list") == root
    with pytest.raises(DataError, match="does not hold"):
        unpacked_corpus(root, tmp_path / "to", holds="absent")
