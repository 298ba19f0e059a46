"""``python -m demo`` from a checkout."""

from demo.app import main

main()
