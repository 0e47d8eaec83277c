"""Fluent Bit: the input `tcp` or `unix_socket`, which parses JSON, and the output `file`."""

from __future__ import annotations

import os

from bench.addresses import split
from bench.peers.contender import Peer

#: A way to run it -> lines of its service, lines of its input. Where it keeps chunks: {folder}.
WAYS = {
    "defaults": ([], []),
    "flush 10 ms": (["flush 0.01"], []),  # nothing else that was tried makes it faster
    "file storage, sync full": (
        ["storage.path {folder}/storage", "storage.sync full"],
        ["storage.type filesystem"],
    ),
}


class FluentBit(Peer):
    """It sends JSON on as parsed, with the same bytes as long as numbers are plain."""

    title, executable, variable = "Fluent Bit", "fluent-bit", "FLUENT_BIT"

    def __init__(self, way: str) -> None:
        super().__init__(way)
        self._service, self._input = WAYS[way]

    def config(self, folder: str, address: str) -> str:
        if address.startswith("/"):
            listen = ["name unix_socket", f"socket_path {address}"]
        else:
            host, port = split(address)
            listen = ["name tcp", f"listen {host}", f"port {port}"]
        sections = {
            "SERVICE": ["log_level warn", *self._service],
            "INPUT": [*listen, "format json", *self._input],
            "OUTPUT": ["name file", "match *", f"path {folder}", "file out.jsonl", "format plain"],
        }
        lines = []
        for section, settings in sections.items():
            lines += [f"[{section}]", *(f"    {setting}" for setting in settings)]
        return "\n".join([*lines, ""]).replace("{folder}", folder)

    def arguments(self, folder: str, path: str) -> list[str]:
        conf = f"{path}.conf"  # its format goes by the name
        os.replace(path, conf)
        return ["-c", conf]
