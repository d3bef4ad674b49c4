"""A certificate authority of a test, and a certificate for an address."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["Authority"]


class Authority:
    """Makes keys and certificates in a folder, with the ``openssl`` program."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.crt"
        self._key = folder / "ca.key"
        subject = ["-subj", "/CN=test CA", "-addext", "keyUsage=critical,keyCertSign"]
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *(*subject, "-keyout", str(self._key), "-out", str(self.certificate)),
        )

    def issue(self, name: str, *addresses: str) -> tuple[Path, Path]:
        """Return the certificate and the key of a server at these IP addresses."""
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        names = ",".join(f"IP:{address}" for address in addresses)
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"),
            *("-CA", str(self.certificate), "-CAkey", str(self._key)),
            *("-addext", "basicConstraints=critical,CA:false"),
            *("-keyout", str(key), "-out", str(certificate)),
        )
        return certificate, key

    def _openssl(self, *words: str) -> None:
        done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
