"""Every kind of check against the real thing: sockets, a web server, processes, files, interfaces."""

import asyncio
import contextlib
import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from locum.aside import Desk, aside
from locum.checks.probes import probe_of
from locum.config import CheckSection, ConfigError, parse


def check(**given: Any) -> CheckSection:
    return CheckSection.model_validate({"timeout": "500ms"} | given)


async def ask(**given: Any) -> str:
    async def run() -> str:
        raise AssertionError("no program")

    return await probe_of(check(**given), run)()


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            threading.Event().wait(1)
        self.send_response(503 if self.path == "/sick" else 200)
        self.end_headers()
        self.wfile.write(b"the database answers" if self.path == "/health" else b"x" * 3_000_000)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(params=["http", "https"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    if request.param == "https":
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=here"]
        subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"{request.param}://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


async def test_http(site: str) -> None:
    lax = {"verify": False}
    assert await ask(http=f"{site}/health", **lax) == ""
    assert await ask(http=f"{site}/health", text="database answers", **lax) == ""
    assert await ask(http=f"{site}/sick", **lax) == f"{site}/sick answers 503"
    assert await ask(http=f"{site}/sick", status=[200, 503], **lax) == ""
    assert await ask(http=f"{site}/health", text="all is lost", **lax) == f"{site}/health answers without 'all is lost'"
    assert await ask(http=f"{site}/big", text="all is lost", **lax) == f"{site}/big answers without 'all is lost'"
    assert await ask(http=f"{site}/slow", **lax) == f"{site}/slow does not answer within 0.5 s"
    if site.startswith("https"):
        assert "certificate verify failed" in (await ask(http=f"{site}/health"))


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert await ask(tcp=f"127.0.0.1:{port}") == ""
    assert await ask(tcp=f"127.0.0.1:{port}") != ""
    assert "127.0.0.1" in await ask(http=f"http://127.0.0.1:{port}/")


async def test_a_server_that_accepts_nothing() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        await asyncio.sleep(0.05)
        answer = await ask(tcp=f"127.0.0.1:{port}")
        for filler in fillers:
            filler.close()
    assert answer == f"127.0.0.1:{port} does not accept a connection within 0.5 s"


async def test_interface_file_and_process(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    assert await ask(interface="lo") == ""
    assert await ask(interface="nonesuch") == "interface nonesuch does not exist"
    assert await ask(file=str(flag)) == f"{flag} is not there"
    assert await ask(file=str(flag), absent=True) == ""
    flag.touch()
    assert await ask(file=str(flag)) == ""
    assert await ask(file=str(flag), absent=True) == f"{flag} is there"
    name = f"proc{os.getpid() % 100000}"
    assert await ask(process=name) == f"no process is called {name}"
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", f"open('/proc/self/comm','w').write('{name}'); print(); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert await ask(process=name) == ""
        process.communicate(b"\n")


async def test_a_disk_that_hangs_costs_a_check_one_thread_and_nobody_else_any() -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def read() -> str:
        hangs.set()
        goes_on.wait(20)
        return ""

    desk = Desk()
    before = threading.active_count()
    with pytest.raises(TimeoutError, match="no answer within"):
        await aside(read, timeout=0.05, desk=desk)
    assert hangs.is_set()
    for _ in range(20):
        with pytest.raises(TimeoutError, match="its last question waits for a disk"):
            await aside(read, timeout=0.05, desk=desk)
    assert threading.active_count() == before + 1
    assert await aside(lambda: "well", timeout=1.0) == "well"
    goes_on.set()
    for _ in range(200):
        with contextlib.suppress(TimeoutError):
            assert await aside(lambda: "again", timeout=1.0, desk=desk) == "again"
            return
        await asyncio.sleep(0.01)
    raise AssertionError("its thread is not free again")


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("{}", "services.web.checks.x: needs one of icmp, tcp"),
        ('{ tcp = "127.0.0.1:80", file = "/x" }', "services.web.checks.x: needs one of"),
        ('{ tcp = "localhost:80" }', "services.web.checks.x.tcp: 'localhost:80' is not an address and port"),
        ('{ tcp = "fd00::1:80" }', "services.web.checks.x.tcp: 'fd00::1:80' is not an address and port"),
        ('{ http = "ftp://x" }', "services.web.checks.x.http: 'ftp://x' is no URL"),
        ('{ file = "/x", text = "y" }', "services.web.checks.x.text: means nothing for file"),
        ('{ tcp = "127.0.0.1:80", interval = "10ms" }', "services.web.checks.x.interval: 0.01s is shorter than 0.1s"),
        ('{ ocf = "10_volume" }', "services.web.checks.x.ocf: no hook of this service that uses ocf is called"),
        ('{ tcp = "127.0.0.1:80", rize = 3 }', "services.web.checks.x.rize: unknown key; did you mean 'rise'?"),
    ],
)
def test_a_wrong_check_is_one_clear_line(written: str, problem: str) -> None:
    text = f"""
cluster = "shop"
brokers = ["mqtt://10.0.0.3:1883"]
[nodes.alpha]
address = "10.0.0.1"
[services.web]
addresses = ["10.0.0.100/24"]
interface = "eth0"
nodes = ["alpha"]
[services.web.checks]
x = {written}
"""
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert len(error.value.problems) == 1 and problem in error.value.problems[0]
