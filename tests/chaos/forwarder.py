"""A wire that is late, says things twice, or in another order: passes frames between two interfaces as it is told to.

    python -m tests.chaos.forwarder LEFT RIGHT --delay 0.1 --jitter 0.05 --duplicate 0.3 --reorder 0.3 --seed 7

For kernels without netem. It runs in the switch's namespace and ends on SIGTERM. Every Ethernet frame goes through it,
ARP too. Packet sockets with PACKET_VNET_HDR (packet(7)) hand a frame on with what the sending kernel left to its card
(checksums, segments), so nothing of the hosts' settings needs to change.
"""

import argparse
import heapq
import random
import select
import signal
import socket
import sys
import time

_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_ETH_P_ALL = 3
_OUTGOING = 4  # PACKET_OUTGOING: what we have sent ourselves
_FRAME_MOST = 70_000
WAITING_MOST = 20_000
"""Frames under way. More are dropped, as a full queue would."""
_READS_MOST = 64


class Forwarder:
    """Two interfaces and the frames between them."""

    def __init__(self, left: str, right: str, options: argparse.Namespace) -> None:
        self._sockets = [_open(left), _open(right)]
        self._options = options
        self._random = random.Random(options.seed)
        self._waiting: list[tuple[float, int, int, bytes]] = []  # due, number, by which socket, frame
        self._number = 0
        self._latest = [0.0, 0.0]
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        """Until stopped, and then for as long as frames are under way; what comes in meanwhile is not passed on."""
        while self._waiting or not self._stopping:
            timeout = 0.2
            if self._waiting:
                timeout = min(timeout, max(0.0, self._waiting[0][0] - time.monotonic()))
            ready, _, _ = select.select([] if self._stopping else self._sockets, [], [], timeout)
            for opened in ready:
                self._take_in(self._sockets.index(opened))
            self._send_due()

    def _take_in(self, side: int) -> None:
        for _ in range(_READS_MOST):
            try:
                frame, sender = self._sockets[side].recvfrom(_FRAME_MOST)
            except (BlockingIOError, OSError):
                return
            if sender[2] != _OUTGOING:
                self._put(1 - side, frame)

    def _put(self, side: int, frame: bytes) -> None:
        options, draw = self._options, self._random.random
        due = time.monotonic() + options.delay + options.jitter * draw()
        if options.reorder and draw() < options.reorder:
            due += 0.002 + 0.03 * draw()  # later ones pass it
        else:
            due = self._latest[side] = max(due, self._latest[side])
        copies = 2 if options.duplicate and draw() < options.duplicate else 1
        for copy in range(copies):
            if len(self._waiting) >= WAITING_MOST:
                return
            self._number += 1
            heapq.heappush(self._waiting, (due + 0.02 * copy * draw(), self._number, side, frame))

    def _send_due(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, side, frame = heapq.heappop(self._waiting)
            try:
                self._sockets[side].send(frame)
            except OSError:  # the interface is down, or its queue is full: the frame is lost
                continue


def _open(interface: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    opened.setblocking(False)
    opened.bind((interface, _ETH_P_ALL))
    return opened


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos.forwarder", description="Pass frames, late or twice.")
    parser.add_argument("left")
    parser.add_argument("right")
    for name in ("delay", "jitter", "duplicate", "reorder"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    forwarder = Forwarder(options.left, options.right, options)
    signal.signal(signal.SIGTERM, lambda _number, _frame: forwarder.stop())
    print("ready", flush=True)
    forwarder.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
