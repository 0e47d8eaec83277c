"""The SDKs that travel with wafermon, so that one file carries everything a host needs.

A script drops in the files of its language and needs nothing else of wafermon.
"""

from __future__ import annotations

import pkgutil

#: Packed below `wafermon/sdk/` in a wheel and in a .pyz: name there, place in the source tree.
CARRIED = {
    "perl/README.md": "perl/README.md",
    "perl/WaferMon.pm": "perl/lib/WaferMon.pm",
}
#: Files of an SDK that are the package's own anyway.
_SHARED = {"python": ("wafermon/__init__.py", "wafermon/client.py")}

LANGUAGES = tuple(sorted({*_SHARED, *(name.partition("/")[0] for name in CARRIED)}))


def files(language: str) -> dict[str, bytes]:
    """The files of an SDK by their names, in folders where they need any.

    Raises:
        KeyError: there is no such language.
        FileNotFoundError: they were not packaged.

    >>> sorted(files("perl")), sorted(files("python"))
    (['README.md', 'WaferMon.pm'], ['wafermon/__init__.py', 'wafermon/client.py'])
    """
    if language not in LANGUAGES:
        raise KeyError(language)
    found = {name: _read(name.partition("/")[2]) for name in _SHARED.get(language, ())}
    for name, source in CARRIED.items():
        folder, _, rest = name.partition("/")
        if folder == language:
            try:
                found[rest] = _read(f"sdk/{name}")
            except OSError:  # not packaged: a source tree
                found[rest] = _read(f"../{source}")
    return found


def _read(name: str) -> bytes:
    content = pkgutil.get_data("wafermon", name)
    if content is None:
        raise FileNotFoundError(f"wafermon/{name} was not packaged")
    return content
