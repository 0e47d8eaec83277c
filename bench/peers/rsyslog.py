"""rsyslog: the input `imptcp`, the parser `mmjsonparse`, the output `omfile`."""

from __future__ import annotations

from bench.addresses import split
from bench.peers.contender import ALL, FLAT, Peer

_CONFIG = """\
global(workDirectory="{folder}" maxMessageSize="64k")
module(load="imptcp")
module(load="mmjsonparse")
template(name="line" type="string" string="%rawmsg%\\n")
ruleset(name="in") {{
  {rule}action(type="omfile" file="{folder}/out.jsonl" template="line")
}}
input(type="imptcp" {listen} ruleset="in")
"""
_PARSED = """action(type="mmjsonparse" cookie="")
  if $parsesuccess == "OK" then """


class Rsyslog(Peer):
    """It writes the line as it came; the parser is asked whether it is JSON.

    Its two threads that read take turns at a connection, so lines may change places.
    """

    title, executable, variable = "rsyslog", "rsyslogd", "RSYSLOGD"
    in_order = False
    version_arguments = ("-v",)

    def __init__(self, *, parsed: bool) -> None:
        super().__init__("JSON parsed" if parsed else "pass-through", ALL if parsed else (FLAT,))
        self._rule = _PARSED if parsed else ""

    def config(self, folder: str, address: str) -> str:
        if address.startswith("/"):
            listen = f'path="{address}"'
        else:
            listen = 'address="{}" port="{}"'.format(*split(address))
        return _CONFIG.format(folder=folder, rule=self._rule, listen=listen)

    def arguments(self, folder: str, path: str) -> list[str]:
        return ["-n", "-f", path, "-i", f"{folder}/pid"]
