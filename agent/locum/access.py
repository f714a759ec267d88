"""How this host proves to a broker who it is, and finds out who the broker is: TLS, certificates, user and password.

The files are read anew for every connection: a certificate or password that is replaced is used from the next one on,
and no agent needs to be started anew. What is secret must not be readable by others (as ssh(1) asks it of its keys).
"""

import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.config import Config, ConfigError, Identity, SecuritySection, broker_address, broker_ways, is_secure
from locum.signing import Keys

LOGIN_MOST = 1_024
"""Bytes of a file with user and password."""


class AccessError(ValueError):
    """A file cannot be used. One line: which, and why."""


@dataclass(frozen=True)
class Access:
    """What a connection needs beside the broker's address."""

    tls: ssl.SSLContext | None = None
    user: str | None = None
    password: str | None = None


class _Context(ssl.SSLContext):
    """Checks the certificate against the name in the URL: what is connected to is the address behind it."""

    server_name: str

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*args, **options | {"server_hostname": self.server_name})


def access(config: Config, url: str, operator: bool = False) -> Access:
    """For one way to a broker; as an operator, if the configuration tells operators from agents.

    Raises AccessError. Reads files: not for the event loop.
    """
    security = config.security
    if security is None:
        return Access(tls=_context(None, None, url) if is_secure(url) else None)
    identity = security.identity(operator)
    user, password = login(identity.login) if identity.login is not None else (None, None)
    return Access(_context(security, identity, url) if is_secure(url) else None, user, password)


def _context(security: SecuritySection | None, identity: Identity | None, url: str) -> ssl.SSLContext:
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)  # asks for a certificate, and compares its names
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.server_name = broker_address(url)[0]
    if security is None or security.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(cafile=security.ca)
        except OSError as error:
            raise AccessError(f"{security.ca}: no certificates of an authority: {_why(error)}") from None
    if identity is not None and identity.certificate is not None:
        assert identity.key is not None
        private(identity.key)
        try:
            # Without a password: else OpenSSL would ask for one at the terminal.
            context.load_cert_chain(identity.certificate, identity.key, password=lambda: b"")
        except OSError as error:
            why = f"cannot be used with {identity.key}: {_why(error)}"
            raise AccessError(f"{identity.certificate}: {why}") from None
    return context


def login(path: Path) -> tuple[str, str]:
    """User and password from a file with the one line user:password. Raises AccessError."""
    text = private(path, LOGIN_MOST).strip()
    user, colon, password = text.partition(":")
    if not (user and colon and password) or not text.isprintable():
        raise AccessError(f"{path}: must hold one line, user:password")
    return user, password


def private(path: Path, most: int = 65_536) -> str:
    """The text of a file that others cannot read. Raises AccessError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH):
                raise AccessError(f"{path}: others may read it (mode {stat.S_IMODE(mode):04o}): chmod o= {path}")
            raw = file.read(most + 1)
    except OSError as error:
        raise AccessError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        if len(raw) > most:
            raise AccessError(f"{path}: larger than {most} bytes")
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise AccessError(f"{path}: is not text") from None


def signing_keys(config: Config) -> Keys | None:
    """What messages are signed with, if they are. Raises AccessError. Reads a file."""
    if config.security is None or config.security.signing is None:
        return None
    path = config.security.signing
    try:
        return Keys.parse(private(path), str(path))
    except AccessError:
        raise
    except ValueError as error:
        raise AccessError(str(error)) from None


def require(config: Config, operator: bool = False) -> None:
    """Raises ConfigError with a line for each file that cannot be used."""
    found: dict[str, None] = {}
    for way in (way for url in config.brokers for way in broker_ways(url)):
        try:
            access(config, way, operator)
        except AccessError as error:
            found[str(error)] = None
    try:
        signing_keys(config)
    except AccessError as error:
        found[str(error)] = None
    if found:
        raise ConfigError(list(found))


def _why(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error.strerror or error).replace("_", " ").lower()
