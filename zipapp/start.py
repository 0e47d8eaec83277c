"""`__main__.py` of wafermon.pyz: refuse old Pythons in one line, hold the archive, run the command.

Any Python from 2.7 on has to get through the parser with this file, and to the test below.

What runs must not depend on what becomes of the file: it may be replaced, cut short or moved while
a sidecar runs for months. So all of it is read at once (400 KB, 2 ms) and everything comes out of
memory from then on: a module that is imported late, such as for TLS after a reload; a page of the
dashboard; the source line in a traceback. Python's own zipimport opens the file each time, and
fails with "bad local file header" or shows lines of another version.
"""

import sys

if sys.version_info < (3, 9):
    sys.stderr.write(
        "wafermon needs Python 3.9 or later, and this is %d.%d.%d (%s); call it with another one, "
        "such as: python3.11 %s\n" % (sys.version_info[:3] + (sys.executable, sys.argv[0]))
    )
    sys.exit(78)

import gc
import importlib.machinery
import io
import os
import zipfile

_PACKAGE = "/__init__.py"


class Archive(object):
    """Finds and loads the modules of the file, and gives the other files in it.

    Args:
        path: absolute; nothing but a name once it has been read.
    """

    def __init__(self, path):
        self._archive = path
        with open(path, "rb") as file:
            self._zip = zipfile.ZipFile(io.BytesIO(file.read()))
        self._names = frozenset(self._zip.namelist())

    def find_spec(self, name, path=None, target=None):
        """As a finder in `sys.meta_path`."""
        member = self._member(name)
        if member is None:
            return None
        spec = importlib.machinery.ModuleSpec(name, self, origin=self._path(member))
        spec.has_location = True
        if member.endswith(_PACKAGE):
            spec.submodule_search_locations = [self._path(member[: -len(_PACKAGE)])]
        return spec

    def create_module(self, spec):
        """The usual."""

    def exec_module(self, module):
        """Compile it and run it."""
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name):
        """For `runpy`, too."""
        member = self._member(name)
        return compile(self._zip.read(member), self._path(member), "exec", dont_inherit=True)

    def get_source(self, name):
        """For `linecache`, and so for tracebacks."""
        member = self._member(name)
        return None if member is None else self._zip.read(member).decode("utf-8")

    def is_package(self, name):
        """For `runpy`."""
        return (self._member(name) or "").endswith(_PACKAGE)

    def get_data(self, path):
        """For `pkgutil.get_data`: a file below the package by its path."""
        try:
            return self._zip.read(os.path.relpath(path, self._archive).replace(os.sep, "/"))
        except KeyError:
            raise FileNotFoundError(path)  # noqa: B904 - `from None` is no syntax of 2.7

    def _path(self, member):
        return os.path.join(self._archive, member)

    def _member(self, name):
        base = name.replace(".", "/")
        for member in (base + _PACKAGE, base + ".py"):
            if member in self._names:
                return member
        return None


def main():
    """Put the archive in front of all that finds modules, and run the command line from it."""
    sys.argv[0] = os.path.abspath(sys.argv[0])
    sys.path[0] = os.path.abspath(sys.path[0])
    archive = Archive(sys.path[0])
    sys.meta_path.insert(0, archive)
    # Sources are compiled at each start, half of its time, and what that makes is no garbage: not
    # to look for any takes 5 % off. A sidecar collects by its own clock, other commands end soon.
    gc.set_threshold(50000)
    global __loader__
    __loader__ = __spec__.loader = archive  # a traceback may show a line of this file, too
    from wafermon.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
