"""file-receiver: takes the lots that testers put into a folder; checks, archives, hands them on.

usage: file_receiver.py INBOX QUEUE CONFIG_ADDRESS

A lot is a folder of datalogs, one a wafer. Whole files go to QUEUE, damaged ones are set aside.
It ends when its standard input does, with what has landed until then.

To see here: spans by `with`, a trace that begins and is handed on beside the data, progress.
"""

import csv
import gzip
import hashlib
import http.client
import os
import select
import shutil
import sys
import time

from wafermon.client import Client

BEAT_S = 5.0
POLL_S = 0.05

client = Client("file-receiver")


class Damaged(Exception):
    """A datalog that is not whole."""


def receive(lot: str, inbox: str, queue: str, config: str) -> None:
    """Take one lot in: the trace of the lot begins here."""
    with client.span(f"receive lot {lot}", ctx={"lot": lot}):
        settings = ask(config, "receiver")
        landed, leaving = os.path.join(inbox, lot), os.path.join(queue, f".{lot}")
        os.makedirs(leaving, exist_ok=True)
        names = sorted(os.listdir(landed))
        whole: list[str] = []
        for number, name in enumerate(names, start=1):
            if take(os.path.join(landed, name), lot, settings):
                os.rename(os.path.join(landed, name), os.path.join(leaving, name))
                whole.append(name)
            client.log_progress(f"receive {lot}", 100 * number / len(names))
        os.rmdir(landed)
        client.log_progress(f"receive {lot}", 100, "done", f"{len(whole)} of {len(names)} files")
        prune(settings["archive"], int(settings["keep_lots"]))
        prune(settings["bad"], int(settings["keep_lots"]))
        print(
            f"file-receiver: received {lot}: {len(whole)} of {len(names)} files are whole",
            flush=True,
        )
        hand_over(leaving, os.path.join(queue, lot))


def take(path: str, lot: str, settings: dict[str, str]) -> bool:
    """Check and archive one file; tell whether it is whole."""
    name = os.path.basename(path)
    wafer = name.rpartition("_")[2].partition(".")[0]
    with client.span(f"take {wafer}", ctx={"file": name}):
        try:
            with client.span("check"):
                dies, digest = check(path, lot)
        except Damaged as fault:
            aside = os.path.join(settings["bad"], lot)
            os.makedirs(aside, exist_ok=True)
            os.rename(path, os.path.join(aside, name))
            client.log_event("error", "damaged file set aside", {"file": name, "why": str(fault)})
            client.log_metric("files_damaged", 1, kind="counter", tags={"lot": lot})
            print(f"file-receiver: set aside {name}: {fault}", flush=True)
            return False
        with client.span("archive"):
            packed = archive(path, os.path.join(settings["archive"], lot))
    size = os.path.getsize(path)
    client.log_event("info", "file taken", {"file": name, "dies": dies, "sha256": digest})
    client.log_metric("file_size", size, unit="B", kind="histogram")
    client.log_metric("archive_ratio", round(size / packed, 2), tags={"lot": lot})
    return True


def check(path: str, lot: str) -> tuple[int, str]:
    """Count the dies of a datalog and make its checksum.

    Raises:
        Damaged: it says what is wrong.
    """
    digest = hashlib.sha256()
    begun = ended = 0
    promised = None
    with open(path, "rb") as file:
        for line in file:
            digest.update(line)
    with open(path, newline="", encoding="ascii", errors="replace") as text:
        kind = ""
        for row in csv.reader(text):
            kind = row[0] if row else ""
            begun += kind == "PIR"
            ended += kind == "PRR"
            if kind == "MIR" and row[1] != lot:
                raise Damaged(f"it belongs to lot {row[1]}")
            if kind == "WRR":
                promised = int(row[2])
    if kind != "MRR" or promised is None:
        raise Damaged(f"cut off after {ended} dies")
    if not begun == ended == promised:
        raise Damaged(f"{ended} dies where it says {promised}")
    return ended, digest.hexdigest()


def archive(path: str, folder: str) -> int:
    """Keep a compressed copy; returns its size."""
    os.makedirs(folder, exist_ok=True)
    copy = os.path.join(folder, os.path.basename(path) + ".gz")
    with open(path, "rb") as plain, gzip.open(copy, "wb", compresslevel=6) as packed:
        shutil.copyfileobj(plain, packed)
    return os.path.getsize(copy)


def prune(folder: str, keep: int) -> None:
    """Delete all but the newest lots."""
    lots = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for lot in lots[:-keep]:
        shutil.rmtree(os.path.join(folder, lot))


def hand_over(folder: str, queued: str) -> None:
    """Queue a lot: its files, and beside them the trace that they belong to."""
    with client.span("hand over") as span:
        with open(os.path.join(folder, "trace"), "w", encoding="ascii") as file:
            file.write(f"{span.traceparent} {int(time.time() * 1000)}\n")
        os.rename(folder, queued)


def ask(config: str, section: str) -> dict[str, str]:
    """Ask config-service; the request carries the trace as W3C says."""
    with client.span("ask for settings") as span:
        link = http.client.HTTPConnection(config, timeout=10)
        link.request("GET", f"/{section}", headers={"traceparent": span.traceparent})
        answer = link.getresponse()
        text = answer.read().decode()
        link.close()
        if answer.status != 200:
            raise RuntimeError(f"config-service answers {answer.status} to /{section}")
        return dict(line.split("=", 1) for line in text.splitlines())


def main() -> None:
    """Look into the inbox until standard input ends."""
    inbox, queue, config = sys.argv[1:]
    print("file-receiver: ready", flush=True)
    client.log_event("info", "ready", {"inbox": inbox})
    due, ending = 0.0, False
    while not ending:
        if time.monotonic() >= due:
            due = time.monotonic() + BEAT_S
            client.heartbeat(interval_s=BEAT_S)
            client.log_resource()
        ending = bool(select.select([sys.stdin], [], [], POLL_S)[0])
        for lot in sorted(os.listdir(inbox)):
            if not lot.startswith("."):  # hidden while the tester writes
                receive(lot, inbox, queue, config)
    client.log_resource()
    client.close()
    print(
        f"file-receiver: sent {client.sent} messages,"
        f" dropped {client.dropped}, refused {client.refused}"
    )


if __name__ == "__main__":
    main()
