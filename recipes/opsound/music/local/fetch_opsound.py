"""Get the music on hold of Asterisk: as a Debian package where apt works, else from the project's site.

Nothing is installed and no root is needed.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from speechnar.data.download import extract_archive, fetch

PACKAGE = "asterisk-moh-opsound-g722"
ARCHIVE = "asterisk-moh-opsound-g722-2.03.tar.gz"
SITE = "https://downloads.asterisk.org/pub/telephony/sounds/releases"


def unpack_debian(downloads: Path) -> None:
    """Download and unpack the package into its own folder, under a temporary name first."""
    partial = downloads / f".{PACKAGE}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    subprocess.run(["apt-get", "download", PACKAGE], cwd=partial, check=True, stdout=sys.stderr)
    (archive,) = partial.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=partial, check=True)
    archive.unlink()
    partial.rename(downloads / PACKAGE)


def main() -> None:
    """Fill the folder ``DOWNLOADS``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("downloads", type=Path)
    downloads = parser.parse_args().downloads
    downloads.mkdir(parents=True, exist_ok=True)
    if (downloads / PACKAGE).exists():
        return
    if all(shutil.which(tool) for tool in ("apt-get", "dpkg-deb")):
        try:
            unpack_debian(downloads)
        except subprocess.CalledProcessError as error:
            print(f"no Debian package ({error}); taking the project's archive", file=sys.stderr)
        else:
            return
    extract_archive(fetch(f"{SITE}/{ARCHIVE}", downloads / ARCHIVE), downloads / PACKAGE)


if __name__ == "__main__":
    main()
