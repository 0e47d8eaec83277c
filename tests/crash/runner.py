"""`wafermon run` that dies by SIGKILL at a named point: `runner.py POINT PASSAGE run ...`.

A point is a method that is wrapped before anything starts; production code knows nothing of it.
"""

import os
import signal
import sys

from wafermon.backends import FileBackend
from wafermon.cli import main
from wafermon.delivery import JournaledQueue, journal_file
from wafermon.net.connection import Connection
from wafermon.net.door import Door
from wafermon.net.server import Server
from wafermon.sidecar.exchange import Exchange
from wafermon.wire.blocks import BlockDecoder


def always(result, *arguments):
    return True


def truly(result, *arguments):
    return bool(result)


#: Name -> owner, method, whether the process dies before it, which passages count.
POINTS = {
    "accepted": (Door, "_accept_one", False, truly),
    "decoded": (BlockDecoder, "decode", False,
                lambda batch, *more: batch is not None and len(batch) > batch.hellos),
    "queued": (JournaledQueue, "put", False, always),
    "journal.begin": (journal_file, "_write_rows", False, lambda _, db, batches: len(batches) > 0),
    "journal.committed": (journal_file.JournalFile, "write", False,
                          lambda _, file, commit: len(commit.batches) > 0),
    "ack.sent": (Connection, "safe", False, lambda _, connection, q, *more: q > 0),
    "backend.sent": (FileBackend, "write", False, always),
    "cursor.committed": (journal_file.JournalFile, "write", False,
                         lambda _, file, commit: len(commit.cursors) > 0),
    "socket.bound": (Server, "bind", False, always),
    "drain.begun": (Server, "_drain", True, always),
    "reload.built": (Exchange, "__init__", False, always),
    "reload.swapped": (Exchange, "swap", False, always),
}


def arm(name, passage):
    """Let the n-th passage of a point end the process."""
    owner, method, before, counts = POINTS[name]
    original = getattr(owner, method)
    passages = [0]

    def die(result, arguments):
        if counts(result, *arguments):
            passages[0] += 1
            if passages[0] == passage:
                os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(*arguments, **named):
        if before:
            die(None, arguments)
        result = original(*arguments, **named)
        if not before:
            die(result, arguments)
        return result

    setattr(owner, method, wrapped)


if __name__ == "__main__":
    if sys.argv[1] != "-":
        arm(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
