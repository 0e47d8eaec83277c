"""Certificates made by the openssl command, for tests only."""

import functools
import os
import shutil
import ssl
import subprocess
import tempfile

import pytest


class Authority:
    """Signs certificates; one for all the tests of a run, as making keys takes time."""

    def __init__(self):
        if shutil.which("openssl") is None:
            assert os.environ.get("CI") != "true", "the openssl command is needed here"
            pytest.skip("needs the openssl command")
        self._keep = tempfile.TemporaryDirectory()
        self.folder = self._keep.name
        self.path = os.path.join(self.folder, "ca.pem")
        self._key = os.path.join(self.folder, "ca.key")
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-days", "30", "-subj", "/CN=test authority",
            # Python 3.13 verifies strictly, and wants these.
            "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", self._key, "-out", self.path,
        )
        self._made = 0

    def _openssl(self, *arguments):
        done = subprocess.run(["openssl", *arguments], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()

    def issue(self, days=30, name="localhost"):
        """The paths of a new certificate and of its key."""
        self._made += 1
        base = os.path.join(self.folder, f"{self._made}")
        extra = f"{base}.cnf"
        with open(extra, "w") as file:
            file.write(
                "subjectAltName=DNS:localhost,IP:127.0.0.1\n"
                "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid:always\n"
            )
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={name}", "-keyout", f"{base}.key", "-out", f"{base}.csr",
        )
        self._openssl(
            "x509", "-req", "-in", f"{base}.csr", "-CA", self.path, "-CAkey", self._key,
            "-CAcreateserial", "-days", str(days), "-extfile", extra, "-out", f"{base}.pem",
        )
        return f"{base}.pem", f"{base}.key"

    def client(self, cert=None, key=None, **limits):
        """What a client needs that trusts us and, where it has one, shows a certificate."""
        context = ssl.create_default_context(cafile=self.path)
        for name, value in limits.items():
            setattr(context, name, value)
        if cert:
            context.load_cert_chain(cert, key)
        return context


@functools.cache
def authority():
    """The authority of this run; the test is skipped, and fails in CI, without openssl."""
    return Authority()
