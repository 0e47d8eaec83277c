"""The commands that a document shows, to be run as they stand."""

import re

from support import ROOT


def blocks(name, language):
    """What stands between fences of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / name).read_text("utf-8"), re.M | re.S)


def commands(name, cannot):
    """The shell blocks of a document.

    Args:
        name: of the document.
        cannot: begins of the lines that no test can run, and why. Each has to be there, or else it
            is wrong to say so.
    """
    used = set()

    def runs(line):
        marks = {begin for begin in cannot if line.startswith(begin)}
        used.update(marks)
        return not marks

    kept = ["".join(filter(runs, block.splitlines(keepends=True))) for block in blocks(name, "sh")]
    assert used == set(cannot), f"{name} does not show {set(cannot) - used}"
    return kept
