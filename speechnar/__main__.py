"""``python -m speechnar`` is the command ``speechnar``."""

import sys

from speechnar.cli.interrupts import INTERRUPTED, interruptible
from speechnar.cli.output import complain, open_streams


def main() -> int:
    """Run the command and return its exit status; an interrupt may come while it is imported, too."""
    open_streams()
    try:
        with interruptible():
            from speechnar.cli.main import run  # noqa: PLC0415
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    return run()


if __name__ == "__main__":
    sys.exit(main())
