"""`/` and `/web/...`: the dashboard, a page of files that are read once."""

from __future__ import annotations

import pkgutil

from wafermon.net import Page, Request, Response

#: What may be in the page: its own scripts, styles and answers, and no text that becomes markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
#: All there is; a folder inside of a .pyz cannot be listed but by opening that file once more.
NAMES = (
    "alerts.js", "api.js", "app.css", "app.js", "backends.js", "chart.js", "dom.js", "drops.js",
    "format.js", "index.html", "jobs.js", "key.js", "kit.js", "metrics.js", "overview.js",
    "resources.js", "services.js", "source.js", "sources.js", "status.js", "table.js", "tail.js",
    "teach.js", "trace.js", "traces.js", "trouble.js", "ui.js",
)  # fmt: skip
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


def dashboard() -> tuple[Page, Page]:
    """The page itself, and the files that it asks for, by their names.

    They are held in memory (100 KB), so neither an upgrade in place nor a request reaches the disk,
    and no name in a request is ever looked up there.

    >>> index, files = dashboard()
    >>> files(Request(rest="app.js")).content_type
    'text/javascript; charset=utf-8'
    """
    answers = {name: _answer(name) for name in NAMES}
    missing = Response(b"the dashboard has no such file\n", status=404)

    def index(request: Request) -> Response:
        return answers["index.html"]

    def file(request: Request) -> Response:
        return answers.get(request.rest, missing)

    return index, file


def _answer(name: str) -> Response:
    body = pkgutil.get_data("wafermon", f"web/{name}") or b""
    kind = _TYPES.get(name.rpartition(".")[2], "text/plain")
    headers = {"Content-Security-Policy": POLICY}
    return Response(body, f"{kind}; charset=utf-8", headers=headers)
