"""Get the Asterisk core sounds and their transcripts: as Debian packages where apt works, else from the project's site.

Nothing is installed and no root is needed. Each part is unpacked once, under a temporary name first.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from prepare_asterisk import VOICES

from speechnar.data.download import extract_archive, fetch
from speechnar.errors import DataError

VERSION = "1.6.1"
SITE = "https://downloads.asterisk.org/pub/telephony/sounds/releases"


def unpack_debian(package: str, downloads: Path) -> None:
    """Download and unpack one package into its own folder."""
    dest = downloads / package
    if dest.exists():
        return
    partial = downloads / f".{package}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    subprocess.run(["apt-get", "download", package], cwd=partial, check=True, stdout=sys.stderr)
    (archive,) = partial.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=partial, check=True)
    archive.unlink()
    partial.rename(dest)


def fetch_tarball(code: str, voice: str, downloads: Path) -> None:
    """Fetch one language from the project's site; the folder is named after the voice, as in the packages."""
    name = f"asterisk-core-sounds-{code}-g722-{VERSION}.tar.gz"
    extract_archive(fetch(f"{SITE}/{name}", downloads / name), downloads / voice)


def main() -> None:
    """Fill the folder ``DOWNLOADS``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("downloads", type=Path)
    downloads = parser.parse_args().downloads
    downloads.mkdir(parents=True, exist_ok=True)
    has_apt = all(shutil.which(tool) for tool in ("apt-get", "dpkg-deb"))
    for code, voice, _ in VOICES.values():
        try:
            if not has_apt:
                raise DataError("apt-get or dpkg-deb is missing")
            for package in (f"asterisk-core-sounds-{code}-g722", f"asterisk-core-sounds-{code}"):
                unpack_debian(package, downloads)
        except (DataError, subprocess.CalledProcessError) as error:
            print(f"{voice}: no Debian package ({error}); taking the project's archive", file=sys.stderr)
            fetch_tarball(code, voice, downloads)


if __name__ == "__main__":
    main()
