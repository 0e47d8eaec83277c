"""Secrets out of files: where these are looked for, and what a good one looks like."""

from __future__ import annotations

import logging
import os
import re
import stat
from typing import Optional

#: A shorter secret can be guessed; it is taken, with a warning.
ADVISED_CHARS = 16
MAX_CHARS = 1024

log = logging.getLogger("wafermon.sidecar")


class Credentials:
    """The files that a service was given, and those that it finds by their path.

    A bare name, without a folder, is looked for among the credentials that systemd passes
    (`LoadCredential=`) first; they are readable by this service alone and never swapped out.

    Args:
        folder: what `$CREDENTIALS_DIRECTORY` says; None where there is none.

    Thread: any.

    >>> with open(os.path.join(tmp, "fab"), "w") as file:
    ...     _ = file.write("tell nobody but the fab\\n")
    >>> Credentials(tmp).secret("fab")
    'tell nobody but the fab'
    """

    def __init__(self, folder: Optional[str] = None) -> None:
        self._folder = folder

    def path(self, name: str) -> str:
        """Where a file of the configuration is."""
        if self._folder and os.path.basename(name) == name:
            passed = os.path.join(self._folder, name)
            if os.path.exists(passed):
                return passed
        return name

    def secret(self, name: str) -> str:
        """What stands in a file, without the line end that closes it.

        Raises:
            ValueError: there is no usable secret; the text names the file and never its contents.
        """
        path = self.path(name)
        try:
            with open(path, "rb") as file:
                raw = file.read(4 * MAX_CHARS + 3)
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        try:
            secret = re.sub(r"\r?\n\Z", "", raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"{path}: is not UTF-8") from None  # its text would show the bytes
        if not 0 < len(secret) <= MAX_CHARS or "\n" in secret:
            raise ValueError(f"{path}: expected one line of 1 to {MAX_CHARS} characters")
        if stat.S_ISREG(mode) and mode & stat.S_IROTH:
            log.warning("%s holds a secret, and everybody may read it: chmod o-r it", path)
        if len(secret) < ADVISED_CHARS:
            log.warning("the secret in %s is short, at least %d characters are advised", path,
                        ADVISED_CHARS)
        return secret
