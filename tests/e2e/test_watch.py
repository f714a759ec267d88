"""`locum watch` in a terminal of 80 columns: what somebody sees who looks at it."""

import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading

from tests.e2e.cluster import Cluster, wait
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

COLUMNS, LINES = 80, 24


class Terminal:
    """A pseudo terminal with a program in it, and the frames that it drew."""

    def __init__(self, cluster: Cluster, *command: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        self.process = cluster.client.popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self._descriptor = ours
        self._drawn = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:  # the program has ended
                return
            if not data:
                return
            self._drawn += data

    def frame(self) -> list[str]:
        """The newest whole frame, as lines without colours."""
        frames = self._drawn.decode("utf-8", "replace").split("\x1b[H")
        if len(frames) < 3:
            return []
        return [line.rstrip("\r") for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frames[-2]).split("\n")]

    def shows(self, *parts: str) -> bool:
        """Whether one line has all of these."""
        return any(all(part in line for part in parts) for line in self.frame())


def test_what_somebody_sees(make_cluster, tmp_path) -> None:  # type: ignore[no-untyped-def]
    sick = tmp_path / "sick"
    check = f'well = {{ file = "{sick}", absent = true, interval = "200ms", fall = 1 }}'
    cluster = make_cluster(more=f"[services.web.checks]\n{check}\n")
    cluster.up()
    terminal = Terminal(cluster, sys.executable, "-m", "locum", "watch", "--config", str(cluster.config))
    wait(lambda: terminal.shows("web", "alpha", "active", "10.0.0.100/24"), 15, lambda: "\n".join(terminal.frame()))
    wait(lambda: terminal.shows("alpha", "●", "web active") and terminal.shows("beta", "●", "web standby"), 5)

    assert cluster.locum(cluster.client, "switchover", "web").returncode == 0
    wait(lambda: terminal.shows("web beta active: switchover"), 10, lambda: "\n".join(terminal.frame()))
    wait(lambda: terminal.shows("web", "beta", "active", "10.0.0.100/24"), 5)

    sick.touch()
    wait(lambda: terminal.shows("beta: well of web fails:"), 10, lambda: "\n".join(terminal.frame()))

    sick.unlink()
    wait(lambda: not terminal.shows("well of web fails"), 10, lambda: "\n".join(terminal.frame()))
    wait(lambda: terminal.shows("alpha", "web standby") or terminal.shows("beta", "web standby"), 10)
    if cluster.held_by("alpha", "beta") == "beta":
        assert cluster.locum(cluster.client, "switchover", "web").returncode == 0
    wait(lambda: terminal.shows("alpha", "web active"), 10, lambda: "\n".join(terminal.frame()))

    cluster.nodes["alpha"].power_off()
    wait(lambda: terminal.shows("alpha", "○"), 10, lambda: "\n".join(terminal.frame()))
    # The one that died is not believed any longer than the window.
    wait(lambda: not any(line.startswith("alpha ") and "web " in line for line in terminal.frame()), 10)

    cluster.stop_broker()
    wait(lambda: terminal.shows("10.0.0.3") or terminal.shows("brokers are lost"), 10)
    cluster.start_broker()
    wait(lambda: terminal.shows("web", "beta", "active"), 15, lambda: "\n".join(terminal.frame()))

    frame = terminal.frame()
    assert all(len(line) <= COLUMNS for line in frame) and len(frame) <= LINES, frame
    print("\n".join(frame))
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.process.wait(10) == 0
    assert b"Traceback" not in terminal._drawn


def test_without_a_terminal_it_says_what_to_use(cluster: Cluster) -> None:
    done = cluster.locum(cluster.client, "watch")
    assert done.returncode == 1 and "locum status" in done.stderr
