"""Corpora from elsewhere: fetch them, find them, and unpack them without trusting them."""

import hashlib
import logging
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from speechnar.data.tars import BoundedTarInfo
from speechnar.errors import DataError

logger = logging.getLogger(__name__)

CORPORA_VARIABLE = "SPEECHNAR_CORPORA"
BLOCK_BYTES = 1 << 20
TIMEOUT_S = 60
ORIGIN_NAME = ".unpacked-from"
# LibriSpeech's largest part is 30 GB; an archive that unpacks to more than this is not a corpus we know.
MAX_UNPACKED_BYTES = 500 << 30
MAX_MEMBERS = 5_000_000
MEMBER_BYTES = 4096
"""What each member counts for, a folder, too: a block of the disk, and what is noted of it."""
MD5_DIGITS = 32
# Speech and text shrink by less than 30; a zip bomb by 1000 and more.
MAX_RATIO = 200
# Ratios mean nothing below this size.
MIN_JUDGED_BYTES = 64 << 20


_LIBRISPEECH, _LIBRITTS = (f"https://www.openslr.org/resources/{number}" for number in (12, 60))
_ASTERISK = "https://downloads.asterisk.org/pub/telephony/sounds/releases"
_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
_GITHUB = "https://github.com"
SUMS = {
    f"{_LIBRISPEECH}/dev-clean.tar.gz": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    f"{_LIBRISPEECH}/dev-other.tar.gz": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    f"{_LIBRISPEECH}/test-clean.tar.gz": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    f"{_LIBRISPEECH}/test-other.tar.gz": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    f"{_LIBRISPEECH}/train-clean-100.tar.gz": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    f"{_LIBRISPEECH}/train-clean-360.tar.gz": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    f"{_LIBRISPEECH}/train-other-500.tar.gz": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
    f"{_LIBRITTS}/dev-clean.tar.gz": "da0864e1bd26debed35da8a869dd5c04dfc27682921936de7cff9c8a254dbe1a",
    f"{_LIBRITTS}/dev-other.tar.gz": "d413eda26f3a152ac7c9cf3658ef85504dfb1b625296e5fa83727f5186cca79c",
    f"{_LIBRITTS}/test-clean.tar.gz": "234ea5b25859102a87024a4b9b86641f5b5aaaf1197335c95090cde04fe9a4f5",
    f"{_LIBRITTS}/test-other.tar.gz": "33a5342094f3bba7ccc2e0500b9e72d558f72eb99328ac8debe1d9080402f10d",
    f"{_LIBRITTS}/train-clean-100.tar.gz": "c5608bf1ef74bb621935382b8399c5cdd51cd3ee47cec51f00f885a64c6c7f6b",
    f"{_LIBRITTS}/train-clean-360.tar.gz": "ce7cff44dcac46009d18379f37ef36551123a1dc4e5c8e4eb73ae57260de4886",
    f"{_LIBRITTS}/train-other-500.tar.gz": "e35f7e34deeb2e2bdfe4403d88c8fdd5fbf64865cae41f027a185a6965f0a5df",
    "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2": (
        "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5"
    ),
    f"{_ASTERISK}/asterisk-core-sounds-en-g722-1.6.1.tar.gz": (
        "59891033e764d9dffc5ccdd78e845a1c8ea6bed0b434128bb0199c63ef591770"
    ),
    f"{_ASTERISK}/asterisk-core-sounds-es-g722-1.6.1.tar.gz": (
        "3c474f73cc4f65478b3cf05ab0c5da19c8ce408699f61491f6aafba450cb540a"
    ),
    f"{_ASTERISK}/asterisk-core-sounds-fr-g722-1.6.1.tar.gz": (
        "7ff3ca96bbb295a6458e6eb1ff92690d9a5d0db0b4ddfa2c488237e4d251efbe"
    ),
    f"{_ASTERISK}/asterisk-core-sounds-it-g722-1.6.1.tar.gz": (
        "44a7fd7b067ff7f71df7fec31f9a8c960e13d35ca30c31878913c4020bfc00b6"
    ),
    f"{_ASTERISK}/asterisk-core-sounds-ru-g722-1.6.1.tar.gz": (
        "fde2a071b811a081219138693d6813d122d91c2c3423936274b110b97645b61b"
    ),
    f"{_ASTERISK}/asterisk-moh-opsound-g722-2.03.tar.gz": (
        "05d206cebfb3433e1bd7fddcf8886cc043e1b21b42ba80a762302e5cf90377ad"
    ),
    f"{_MULTI30K}/test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    f"{_MULTI30K}/test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    f"{_MULTI30K}/test_2016_flickr.fr.gz": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
    f"{_MULTI30K}/test_2017_flickr.de.gz": "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
    f"{_MULTI30K}/test_2017_flickr.en.gz": "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
    f"{_MULTI30K}/test_2017_flickr.fr.gz": "3ba671ceb2299f3304ffafefea7a833d08632fbaf0ba18546f8a2ec2391af496",
    f"{_MULTI30K}/train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    f"{_MULTI30K}/train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    f"{_MULTI30K}/train.fr.gz": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    f"{_MULTI30K}/val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    f"{_MULTI30K}/val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    f"{_MULTI30K}/val.fr.gz": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "https://www.openslr.org/resources/33/data_aishell.tgz": "2f494334227864a8a8fec932999db9d8",
}
"""SHA-256 of what recipes fetch, or MD5 where nobody publishes more: LibriSpeech, LibriTTS and LJ Speech as torchaudio
2.11 has them, Asterisk's sounds as OpenWrt's package ``asterisk-sounds-digium`` has them, Multi30k as it lies in commit
a3d2e0d of its repository, AISHELL-1 (MD5) as PaddleSpeech has it."""
_MADE_ANEW = "GitHub makes the archive of a commit anew, and promises no bytes"
UNVERIFIED = {
    "https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz": "neither CMU nor NVIDIA publishes a sum",
    "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz": "fairseq publishes no sum",
    f"{_GITHUB}/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz": _MADE_ANEW,
    f"{_GITHUB}/karolpiczak/ESC-50/archive/33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6.zip": _MADE_ANEW,
    f"{_GITHUB}/MontrealCorpusTools/librispeech-demo/archive/3f226b2e1629aab7b755aa4ba42e3a0c10c8b216.tar.gz": (
        _MADE_ANEW
    ),
    f"{_GITHUB}/rhasspy/dataset-voice-kathleen/archive/c51cb971036a127359b43c621f26ca5081eab13e.tar.gz": _MADE_ANEW,
    f"{_GITHUB}/rhasspy/dataset-voice-kerstin/archive/f73127135cf80d6ef52aef6af58c49774f4fd625.tar.gz": _MADE_ANEW,
}
"""What recipes fetch without knowing its sum, and why; that of the first download is expected from then on."""


def fetch(url: str, dest: str | Path, sha256: str | None = None) -> Path:
    """Download ``url`` to the file ``dest`` unless it is there, and return ``dest``.

    Args:
        url: http or https.
        dest: written under a temporary name and renamed once it is complete and its sum is right.
        sha256: the expected sum in hex (of 32 digits: MD5), by default that of `SUMS`; a file already at ``dest`` must
            have it, too. Where it is not known, that of the first download is written beside it (``<dest>.sha256``) and
            expected later on.

    Raises:
        DataError: the download fails, is cut short, is sent on from https to elsewhere, or has another sum.
    """
    dest = Path(dest)
    noted = dest.with_name(f"{dest.name}.sha256")
    known = sha256 or SUMS.get(url)
    if dest.exists():
        if known is None and noted.exists():
            known = noted.read_text(encoding="utf-8").split(" ")[0]
        if known is not None:
            _check_sum(dest, known)
        return dest
    if not url.startswith(("http://", "https://")):
        raise DataError(f"can only fetch http and https, got {url!r}")
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial = dest.with_name(dest.name + ".partial")
    logger.info("fetching %s", url)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, partial.open("wb") as file:  # noqa: S310  # scheme checked
            if url.startswith("https://") and not response.geturl().startswith("https://"):
                raise DataError(f"{url}: is sent on to {response.geturl()}, which anybody on the way can change")
            expected = response.headers.get("Content-Length")
            shutil.copyfileobj(response, file, BLOCK_BYTES)
    except (urllib.error.URLError, OSError) as error:
        raise DataError(f"{url}: cannot be fetched ({error}); fetch it yourself and give its path") from None
    if expected is not None and partial.stat().st_size != int(expected):
        raise DataError(f"{url}: got {partial.stat().st_size} of {expected} bytes; try again")
    found = _check_sum(partial, known)
    if known is None:
        why = f" ({UNVERIFIED[url]})" if url in UNVERIFIED else ""
        logger.warning("%s: its sum is not known to us%s, so that nobody has verified it: sha256 %s", dest, why, found)
        noted.write_text(f"{found}  {dest.name}\n", encoding="utf-8")
    partial.replace(dest)
    return dest


def find_corpus(name_or_path: str | Path) -> Path:
    """Return the path if it exists, else the file or folder of that name under ``$SPEECHNAR_CORPORA``.

    Raises:
        DataError: it is in neither place.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    root = os.environ.get(CORPORA_VARIABLE)
    if root and (Path(root) / path).exists():
        return Path(root) / path
    hint = f"nor under {root}" if root else f"and ${CORPORA_VARIABLE} is not set"
    raise DataError(f"no corpus at {path}, {hint}; give the path of the archive or of the unpacked folder")


def extract_archive(archive: str | Path, dest: str | Path) -> Path:
    """Unpack a tar (any compression Python knows) or zip archive into the new folder ``dest`` and return it.

    A ``dest`` that exists is complete and left alone: the archive is unpacked beside it and renamed at the end, and a
    file in it tells from which archive. Only regular files and folders come out, with default permissions.

    Raises:
        DataError: ``dest`` came from another archive; it is no such archive or damaged; a member is absolute, climbs
            out by ``..`` or is a link or a device; or there are too many members, too many bytes, or far more bytes
            than the archive's size explains.
    """
    archive, dest = Path(archive), Path(dest)
    num_bytes = archive.stat().st_size if archive.exists() else 0
    origin = f"{archive.name} {num_bytes}\n"
    if dest.exists():
        marker = dest / ORIGIN_NAME
        if archive.exists() and marker.exists() and marker.read_text(encoding="utf-8") != origin:
            raise DataError(f"{dest}: was unpacked from another archive than {archive}; remove the folder")
        return dest
    partial = dest.with_name(dest.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    limit = min(MAX_UNPACKED_BYTES, max(MIN_JUDGED_BYTES, num_bytes * MAX_RATIO))
    written = 0
    try:
        for count, (name, content) in enumerate(_members(archive), start=1):
            if count > MAX_MEMBERS:
                raise DataError(f"{archive}: holds more than {MAX_MEMBERS} files")
            written += MEMBER_BYTES
            if content is not None:
                written += _write_member(partial / name, content, limit - written, archive)
            elif written > limit:
                raise _far_more(archive)
    except DataError:
        raise
    except Exception as error:  # damaged archives make the modules that read them fail in any way
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{archive}: cannot be unpacked ({reason})") from None
    (partial / ORIGIN_NAME).write_text(origin, encoding="utf-8")
    partial.replace(dest)
    return dest


def unpacked_corpus(name_or_path: str | Path, unpack_to: str | Path, *, holds: str) -> Path:
    """Return the folder of a corpus that has the file ``holds``, unpacking an archive into ``unpack_to`` first.

    Raises:
        DataError: the corpus is not found, or nowhere in it is ``holds``.
    """
    path = find_corpus(name_or_path)
    if path.is_file():
        path = extract_archive(path, Path(unpack_to) / path.name.split(".")[0])
    found = (
        [path] if (path / holds).exists() else sorted(inner.parents[holds.count("/")] for inner in path.rglob(holds))
    )
    if not found:
        raise DataError(f"{path}: does not hold {holds}; is it another corpus, or another layout of it?")
    return found[0]


def _check_sum(path: Path, known: str | None) -> str:
    """Return the SHA-256 of a file, or the MD5 if ``known`` is one; it must be ``known`` if that is given."""
    name = "md5" if known is not None and len(known) == MD5_DIGITS else "sha256"
    digest = hashlib.new(name, usedforsecurity=name != "md5")
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    if known is not None and digest.hexdigest() != known.lower():
        raise DataError(f"{path}: {name} must be {known}, got {digest.hexdigest()}; delete the file and try again")
    return digest.hexdigest()


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes] | None]]:
    """Yield the name, checked, of every member, and the open content of a regular file, None of a folder."""
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    elif tarfile.is_tarfile(archive):
        yield from _tar_members(archive)
    else:
        raise DataError(f"{archive}: must be a tar or zip archive")


def _tar_members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes] | None]]:
    with tarfile.open(archive, tarinfo=BoundedTarInfo) as tar:
        for member in tar:
            name = _safe_name(member.name, archive)
            if member.isdir():
                yield name, None
                continue
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                raise DataError(f"{archive}: {member.name!r} must be a regular file; links and devices are refused")
            with closing(content):
                yield name, content


def _zip_members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            name = _safe_name(member.filename, archive)
            if member.is_dir():
                yield name, None
                continue
            unix_type = (member.external_attr >> 16) & 0o170000
            if unix_type not in (0, 0o100000):
                raise DataError(f"{archive}: {member.filename!r} must be a regular file; links are refused")
            with _opened(bundle, member, archive) as content:
                yield name, content


@contextmanager
def _opened(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, archive: Path) -> Iterator[IO[bytes]]:
    try:
        content = bundle.open(member)
    except RuntimeError:
        raise DataError(f"{archive}: {member.filename!r} is encrypted or packed in an unknown way") from None
    with content:
        yield content


def _safe_name(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or PureWindowsPath(name).drive:
        raise DataError(f"{archive}: {name!r} would land outside the folder; the archive is not to be trusted")
    return path


def _write_member(path: Path, content: IO[bytes], limit: int, archive: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with path.open("wb") as file:
        while block := content.read(BLOCK_BYTES):
            written += len(block)
            if written > limit:
                raise _far_more(archive)
            file.write(block)
    return written


def _far_more(archive: Path) -> DataError:
    return DataError(f"{archive}: unpacks to far more than an archive of its size should")
