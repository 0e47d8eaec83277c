"""print the version"""

from __future__ import annotations

import argparse
import platform

from wafermon import __version__

EPILOG = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(options: argparse.Namespace) -> int:
    """Print it, with the Python that runs it."""
    print(f"wafermon {__version__} (Python {platform.python_version()})")
    return 0
