"""python -m tests.e2e.flood HOST RATE SECONDS TOPIC...: garbage on these topics, as fast as asked for. At QoS 0."""

import os
import socket
import sys
import time

SLICE = 0.01


def string(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def publish(topic: str, payload: bytes) -> bytes:
    """MQTT 3.1.1, section 3.3."""
    body = string(topic) + payload
    length, encoded = len(body), b""
    while True:
        length, digit = divmod(length, 128)
        encoded += bytes([digit | (0x80 if length else 0)])
        if not length:
            return b"\x30" + encoded + body


def main() -> None:
    host, rate, seconds, *topics = sys.argv[1:]
    packets = [publish(topic, kind) for topic in topics for kind in (os.urandom(40), b'{"node":', b"[" * 200, b"{}")]
    with socket.create_connection((host, 1883), timeout=10) as connection:
        connection.sendall(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c" + string("fl"))
        connection.recv(4)
        each = round(float(rate) * SLICE)
        begin, sent, turn = time.monotonic(), 0, 0
        while (now := time.monotonic()) < begin + float(seconds):
            due = round((now - begin) / SLICE) * each
            while sent < due:
                connection.sendall(b"".join(packets[(turn + place) % len(packets)] for place in range(each)))
                sent, turn = sent + each, turn + each
            time.sleep(SLICE / 4)
        print(sent / (time.monotonic() - begin))


if __name__ == "__main__":
    main()
