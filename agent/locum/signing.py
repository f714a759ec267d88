"""Signed messages: a key that all nodes share tells their words from a stranger's, even on a broker open to all. Pure.

The signature is the last field of the JSON object, an HMAC-SHA-256 (RFC 2104) of the topic, a null byte, and the bytes
of the object as they were before it was put in: who has no key reads the message as any other.

    {"node":"alpha", ...}   becomes   {"node":"alpha", ..., "signature":"k1:5f0c..."}

The file of keys has one key a line, a name and 32 bytes in base64. The first signs; all of them are believed. So a key
is changed without a moment in which two nodes do not understand each other: the new one is added at the end on all
nodes, then moved to the front on all, then the old one is taken out.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

KEY_BYTES = 32
KEYS_MOST = 8
_LINE = re.compile(r"([A-Za-z0-9]{1,16})\s+([A-Za-z0-9+/=]+)")
_SIGNED = re.compile(rb',"signature":"([A-Za-z0-9]{1,16}):([0-9a-f]{64})"\}\Z')
OVERHEAD = 112
"""Bytes by which a signed message is longer, at most."""


def new_key() -> str:
    """A line for the file of keys."""
    return f"{secrets.token_hex(4)} {base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


class Unsigned(ValueError):
    """The message has no signature."""


class Keys:
    """What is signed with, and believed."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """The first of `keys`, by name, signs."""
        self._keys = dict(keys)
        self._name = next(iter(self._keys))

    @classmethod
    def parse(cls, text: str, where: str) -> "Keys":
        """From the text of a file; ValueError, in one line with `where`, if it is not one."""
        found: dict[str, bytes] = {}
        for number, line in enumerate(text.splitlines(), 1):
            line = line.partition("#")[0].strip()
            if not line:
                continue
            match = _LINE.fullmatch(line)
            key = b""
            if match is not None:
                try:
                    key = base64.b64decode(match[2], validate=True)
                except binascii.Error:
                    match = None
            if match is None or len(key) != KEY_BYTES or match[1] in found:
                raise ValueError(f"{where}: line {number} is no key of its own: `locum secure key` prints one")
            found[match[1]] = key
        if not 1 <= len(found) <= KEYS_MOST:
            raise ValueError(f"{where}: has {len(found)} keys, and should have one; two while they are changed")
        return cls(found)

    def sign(self, topic: str, payload: bytes) -> bytes:
        """The message, which is a JSON object with at least one field, with its signature."""
        return b'%b,"signature":"%b:%b"}' % (
            payload[:-1],
            self._name.encode(),
            self._of(self._keys[self._name], topic, payload),
        )

    def open(self, topic: str, payload: bytes) -> bytes:
        """The message without its signature; ValueError, in one line, unless that is a good one."""
        match = _SIGNED.search(payload[-2 * OVERHEAD :])
        if match is None:
            raise Unsigned("it is not signed")
        key = self._keys.get(match[1].decode())
        if key is None:
            raise ValueError(f"it is signed with the key {match[1].decode()}, which is not known here")
        plain = payload[: len(payload) - len(match[0])] + b"}"
        if not hmac.compare_digest(self._of(key, topic, plain), match[2]):
            raise ValueError("its signature is wrong")
        return plain

    @staticmethod
    def _of(key: bytes, topic: str, payload: bytes) -> bytes:
        return hmac.new(key, topic.encode() + b"\0" + payload, hashlib.sha256).hexdigest().encode()
