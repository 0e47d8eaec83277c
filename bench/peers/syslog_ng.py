"""syslog-ng: the source `network`, the parser `json-parser`, the destination `file`."""

from __future__ import annotations

import os

from bench.addresses import split
from bench.peers.contender import ALL, FLAT, Peer

_CONFIG = """\
@version: 3.38
options {{ stats-freq(0); }};
source in {{
  {listen} flags(no-parse) max-connections(100) log-iw-size(100000) log-msg-size(65536));
}};
destination out {{ file("{folder}/out.jsonl" template("${{MSG}}\\n") log-fifo-size(100000)); }};
log {{ source(in); {rule}destination(out); flags(flow-control); }};
"""
_PARSED = 'parser { json-parser(prefix(".json.")); }; '


class SyslogNg(Peer):
    """It writes the line as it came; what is not JSON is dropped by the parser."""

    title, executable, variable = "syslog-ng", "syslog-ng", "SYSLOG_NG"

    def __init__(self, *, parsed: bool) -> None:
        super().__init__("JSON parsed" if parsed else "pass-through", ALL if parsed else (FLAT,))
        self._rule = _PARSED if parsed else ""

    def config(self, folder: str, address: str) -> str:
        if address.startswith("/"):
            listen = f'unix-stream("{address}"'
        else:
            listen = 'network(ip("{}") port({}) transport("tcp")'.format(*split(address))
        return _CONFIG.format(folder=folder, rule=self._rule, listen=listen)

    def arguments(self, folder: str, path: str) -> list[str]:
        state = {"-f": path, "-R": "persist", "-c": "control", "-p": "pid"}
        arguments = ["-F", "--no-caps"]
        for option, name in state.items():
            arguments += [option, os.path.join(folder, name)]
        return arguments
