"""``python -m speechnar`` is the command ``speechnar``."""

import sys

from speechnar.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
