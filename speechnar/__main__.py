"""``python -m speechnar`` is the command ``speechnar``."""

import sys

from speechnar.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
