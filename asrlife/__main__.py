"""`python -m asrlife` is the command `asrlife`."""

import sys

from asrlife.cli import main

if __name__ == "__main__":
    sys.exit(main())
