"""The hooks `log` and `email`: a real socket like the system log's, and a real mail server; nobody waits for them."""

import email
import socket
import sys
import time
from pathlib import Path

from tests.e2e.cluster import Cluster, kind, wait
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

SERVER = """
import asyncio, sys
from pathlib import Path
from aiosmtpd.controller import UnthreadedController
from aiosmtpd.handlers import Message

class Keep(Message):
    count = 0
    def handle_message(self, message):
        Keep.count += 1
        path = Path(sys.argv[1]) / f"{Keep.count}.new"
        path.write_bytes(message.as_bytes())
        path.rename(path.with_suffix(".eml"))

loop = asyncio.new_event_loop()
controller = UnthreadedController(Keep(), hostname="", port=25, loop=loop)
controller.begin()
loop.run_forever()
"""


def test_log_writes_a_line_on_each_move(make_cluster, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(path))
        log.settimeout(10)
        hook = f'{{ use = "log", socket = "{path}", priority = "warning", tag = "ha" }}'
        cluster: Cluster = make_cluster(more=f'[services.web.hooks]\n"80_log" = {hook}\n')
        cluster.up()
        line = log.recv(4096).decode()
        assert line.startswith("<28>ha: alpha has taken web (10.0.0.100/24): start (epoch ")
        assert cluster.locum(cluster.client, "switchover", "web").returncode == 0
        lines = sorted(log.recv(4096).decode().rpartition(" (epoch")[0] for _ in range(2))
    assert lines == [
        "<28>ha: alpha has given up web (10.0.0.100/24), for beta: switchover",
        "<28>ha: beta has taken web (10.0.0.100/24), from alpha: switchover",
    ]


def test_email_tells_what_happened_and_a_server_that_hangs_keeps_nobody(make_cluster, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """alpha's mail server takes the mail; beta's accepts the connection and says nothing."""
    cluster: Cluster = make_cluster(
        more="""[services.web.hooks]
"90_mail" = { use = "email", to = ["root", "admin@example.org"], sender = "locum@example.org", timeout = "3s" }
"""
    )
    mails = tmp_path / "mails"
    mails.mkdir()
    cluster.nodes["alpha"].popen([sys.executable, "-c", SERVER, str(mails)])
    hangs = "import socket\ns = socket.create_server(('', 25))\nkept = []\nwhile True: kept.append(s.accept())"
    cluster.nodes["beta"].popen([sys.executable, "-c", hangs])
    for node in cluster.nodes.values():
        ask = "import socket; socket.create_connection(('localhost', 25), 1)"
        wait(lambda node=node, ask=ask: node.run([sys.executable, "-c", ask]).returncode == 0, 10)
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    wait(lambda: len(list(mails.glob("*.eml"))) == 1, 10)
    first = email.message_from_bytes((mails / "1.eml").read_bytes())
    assert first["Subject"] == "web: alpha has taken it (start)"
    assert first["To"] == "root, admin@example.org" and first["Auto-Submitted"] == "auto-generated"
    body = first.get_payload()
    assert isinstance(body, str) and "10.0.0.100/24" in body and "eth0" in body

    with cluster.asking() as asking:
        assert cluster.locum(cluster.client, "switchover", "web").returncode == 0
        time.sleep(0.3)
        gap = asking.stop().longest_gap()
    print(f"figure: switchover beside a mail server that hangs: the client's gap is {gap * 1000:.0f} ms")
    assert gap < 1.0
    subscriber.wait(lambda: "beta failed" in subscriber.kinds(), 15)
    assert subscriber.kinds().index("beta active") < subscriber.kinds().index("beta failed")
    failed = next(event for event in subscriber.events("web") if kind(event) == "failed")
    assert "90_mail (email)" in failed["data"]["why"]
    wait(lambda: len(list(mails.glob("*.eml"))) == 2, 10)
    second = email.message_from_bytes((mails / "2.eml").read_bytes())
    assert second["Subject"] == "web: alpha has given it up (switchover)"
    assert cluster.moves() == ["alpha", "beta"]
