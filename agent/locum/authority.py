"""A certificate authority of one's own, with openssl(1): for a cluster whose brokers nobody else needs to know.

What is there is kept: a second run makes only what is missing.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

DAYS = 3650
OPENSSL_SECONDS = 60
SECRET, PUBLIC = 0o600, 0o644


class AuthorityError(Exception):
    """It could not be made. One line."""


def write(path: Path, text: str, mode: int = SECRET) -> None:
    """A file that is there whole or not at all, and was never readable by more than `mode` says."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        new.chmod(mode)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


class Authority:
    """ca.pem and ca.key in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        """Raises AuthorityError."""
        if shutil.which("openssl") is None:
            raise AuthorityError("openssl is missing: install the package openssl")
        self.certificate, self.key = folder / "ca.pem", folder / "ca.key"
        if self.certificate.exists() != self.key.exists():
            missing = self.key if self.certificate.exists() else self.certificate
            raise AuthorityError(f"{missing} is missing: bring it back, or begin in an empty folder")
        if not self.key.exists():
            extensions = ("basicConstraints = critical, CA:TRUE", "keyUsage = critical, keyCertSign, cRLSign")
            _make(self.certificate, self.key, name, (*extensions, "subjectKeyIdentifier = hash"))

    def issue(self, certificate: Path, key: Path, name: str, hosts: Sequence[str] = ()) -> bool:
        """A certificate for a server that answers at `hosts`, or for a client without them; false: it was there.

        Raises AuthorityError.
        """
        if certificate.exists() and key.exists():
            return False
        extensions = [
            "basicConstraints = critical, CA:FALSE",
            "keyUsage = critical, digitalSignature",
            f"extendedKeyUsage = {'serverAuth' if hosts else 'clientAuth'}",
            "authorityKeyIdentifier = keyid",
        ]
        if hosts:
            extensions.append("subjectAltName = " + ", ".join(_alternative(host) for host in hosts))
        _make(certificate, key, name, extensions, ["-CA", str(self.certificate), "-CAkey", str(self.key)])
        return True


def _alternative(host: str) -> str:
    try:
        return f"IP:{ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"


def _make(certificate: Path, key: Path, name: str, extensions: Sequence[str], signer: Sequence[str] = ()) -> None:
    settings = ["[req]", "distinguished_name = dn", "prompt = no", "x509_extensions = ext", "utf8 = yes"]
    settings += ["[dn]", f"CN = {name}", "[ext]", *extensions]
    with tempfile.TemporaryDirectory() as folder:
        config, new, secret = Path(folder, "config"), Path(folder, "pem"), Path(folder, "key")
        config.write_text("\n".join(settings) + "\n")
        command = ["openssl", "req", "-x509", "-config", str(config), "-days", str(DAYS), "-sha256", *signer]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-keyout", str(secret), "-out", str(new)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=OPENSSL_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise AuthorityError(f"openssl: {error}") from None
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            raise AuthorityError(f"openssl: {said[-1] if said else f'exit status {done.returncode}'}")
        write(key, secret.read_text(), SECRET)
        write(certificate, new.read_text(), PUBLIC)
