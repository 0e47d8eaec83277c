"""`python3 -m wafermon` is the same as `wafermon`."""

import sys

from wafermon.cli import main

if __name__ == "__main__":
    sys.exit(main())
