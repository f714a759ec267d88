"""nginx serves files from a volume that only one host may mount: what the project was named for.

Real parts: ext4 on a loop device, the resource agents Filesystem and nginx of the package resource-agents.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.cluster import ADDRESS, Cluster, kind
from tests.e2e.services import Fetching, MountWatch, Rooms, Volume
from tests.namespaces import NEEDS_NAMESPACES, NEEDS_ROOT, needs_programs

pytestmark = [
    *NEEDS_NAMESPACES,
    NEEDS_ROOT,
    *needs_programs("mkfs.ext4", "losetup", "nginx", "/usr/lib/ocf/resource.d/heartbeat/Filesystem"),
]

PAGE = "the same file"


@dataclass
class Web:
    cluster: Cluster
    rooms: Rooms
    mounts: MountWatch
    volume: Volume


def nginx_configuration(folder: Path, content: Path) -> Path:
    """One for both hosts; what it writes it writes below /run, which is each host's own."""
    path = folder / "nginx.conf"
    path.write_text(
        textwrap.dedent(f"""\
        user root;  # the folder of a test is closed to others
        include /run/spoilt*.conf;
        pid /run/nginx.pid;
        error_log {folder}/nginx-error.log;
        worker_processes 1;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path /run/nginx-body;
            server {{
                listen 80;
                root {content};
            }}
        }}
        """)
    )
    return path


@pytest.fixture
def web(make_cluster, tmp_path: Path) -> Iterator[Web]:  # type: ignore[no-untyped-def]
    content = tmp_path / "srv"
    with Volume(tmp_path) as volume:
        volume.prepare(content, f"printf '%s' '{PAGE}' >page")
        configuration = nginx_configuration(tmp_path, content)
        nginx = f'"20_nginx" = {{ use = "ocf", agent = "heartbeat:nginx", configfile = "{configuration}" }}'
        # The monitor of its resource agent, made on the holder alone.
        check = '[services.web.checks]\nnginx = { ocf = "20_nginx", interval = "1s", timeout = "5s", fall = 2 }'
        cluster = make_cluster(more=f"[services.web.hooks]\n{volume.hook(content)}\n{nginx}\n{check}\n")
        watch = MountWatch(volume)
        watch.start()
        try:
            yield Web(cluster, Rooms(cluster, watch), watch, volume)
        finally:
            cluster.lab.close()  # before the volume: its mounts go with the hosts
            watch.stop()


def lose_alpha(web: Web) -> tuple[float, float]:
    """The holder's plug is pulled while a client asks: its longest gaps in ms, to an echo and to a page."""
    fetching = Fetching(web.cluster, ADDRESS)
    fetching.wait_for_page()
    with web.cluster.asking() as asking:
        web.cluster.nodes["alpha"].power_off()
        web.cluster.held_by("beta")
        fetching.wait_for_page()
        answers = asking.stop()
    fetching.stop()
    assert fetching.texts() == {PAGE}
    return answers.longest_gap() * 1000, fetching.longest_gap() * 1000


def test_the_holder_is_lost_and_the_other_host_serves_the_same_file(web: Web) -> None:
    web.cluster.up()
    echo, page = lose_alpha(web)
    print(f"figure: host lost, with hooks: the client's gap is {echo:.0f} ms to an echo, {page:.0f} ms to a page")
    assert web.mounts.mounts() == ["alpha", "beta"]
    web.cluster.never_two()


def test_the_same_without_hooks(make_cluster) -> None:  # type: ignore[no-untyped-def]
    """For the figure beside it: what the lease takes, and what the mount and the server add."""
    cluster = make_cluster()
    cluster.up()
    with cluster.asking() as asking:
        cluster.nodes["alpha"].power_off()
        cluster.held_by("beta")
        answers = asking.stop()
    print(f"figure: host lost, without hooks: the client's gap is {answers.longest_gap() * 1000:.0f} ms to an echo")


def test_a_switchover_and_back(web: Web) -> None:
    """Stopped, unmounted, moved, mounted, started: in this order, each an event with its duration and exit status."""
    subscriber = web.cluster.subscriber("event/#")
    web.cluster.up()
    fetching = Fetching(web.cluster, ADDRESS)
    fetching.wait_for_page()
    for holder in ("beta", "alpha"):
        done = web.cluster.locum(web.cluster.client, "switchover", "web")
        assert done.returncode == 0, done.stderr
        assert web.cluster.held_by(holder) == holder
        fetching.wait_for_page()
        subscriber.wait(lambda holder=holder: f"{holder} active" in subscriber.kinds()[-4:])
    fetching.stop()
    print(f"figure: switchover with hooks: the client's gap is {fetching.longest_gap() * 1000:.0f} ms to a page")
    assert fetching.texts() == {PAGE}
    assert web.mounts.mounts() == ["alpha", "beta", "alpha"]
    hooks = [event for event in subscriber.events("web") if kind(event) == "hook"]
    ran = [f"{event['source'].rpartition('/')[2]} {event['data']['phase']} {event['data']['name']}" for event in hooks]
    up, down = ["PreAcq 10_volume", "PreAcq 20_nginx"], ["PreRel 20_nginx", "PreRel 10_volume"]
    assert ran[:10] == [
        *(f"alpha {what}" for what in up + down),
        *(f"beta {what}" for what in up + down),
        *(f"alpha {what}" for what in up),
    ]
    assert all(event["data"]["status"] == 0 and event["data"]["seconds"] > 0 for event in hooks)
    web.cluster.never_two()


def test_a_server_that_dies_is_noticed_by_its_monitor_and_moves(web: Web) -> None:
    """Nobody else dies: the volume is unmounted in order before the other host mounts it."""
    subscriber = web.cluster.subscriber("event/#")
    web.cluster.up()
    (pid,) = web.cluster.nodes["alpha"].run([*web.rooms.inside("alpha"), "cat", "/run/nginx.pid"]).stdout.split()
    web.cluster.nodes["alpha"].run(["kill", "-KILL", "--", f"-{pid}"])
    web.cluster.nodes["alpha"].run(["kill", "-KILL", pid])
    web.cluster.held_by("beta", seconds=20)
    assert web.mounts.mounts() == ["alpha", "beta"]
    failing = next(event["data"] for event in subscriber.events("web") if kind(event) == "check")
    assert failing["check"] == "nginx" and failing["ok"] is False
    assert "alpha fault" in subscriber.kinds()
    web.cluster.never_two()


def test_a_server_that_does_not_start_is_undone_and_the_other_host_serves(web: Web) -> None:
    """What was mounted is unmounted before anybody else mounts it."""
    spoil = ["sh", "-c", "echo nonsense >/run/spoilt.conf"]
    assert web.cluster.nodes["alpha"].run([*web.rooms.inside("alpha"), *spoil]).returncode == 0
    subscriber = web.cluster.subscriber("event/#")
    web.cluster.start("alpha")
    subscriber.wait(lambda: "alpha failed" in subscriber.kinds(), 20)
    web.cluster.start("beta")
    web.cluster.held_by("beta")
    assert web.mounts.mounts()[:1] == ["alpha"] and set(web.mounts.mounts()) == {"alpha", "beta"}
    assert web.cluster.moves() == ["beta"]
    ran = [
        f"{event['data']['phase']} {event['data']['name']}"
        for event in subscriber.events("web")
        if kind(event) == "hook" and event["source"].endswith("/alpha")
    ]
    assert ran[:4] == ["PreAcq 10_volume", "PreAcq 20_nginx", "PreRel 20_nginx", "PreRel 10_volume"]


def test_what_would_run_is_listed(web: Web) -> None:
    """Names, order, and where each comes from; and what `--dry-run` prints can be run in a shell."""
    web.cluster.hook("web", "PreAcq_50_own")
    web.cluster.hook("web", "PreRel_50_own")
    host = web.cluster.nodes["alpha"]
    listed = web.cluster.locum(host, "hooks", "web", "--node", "alpha")
    assert [line.split()[:2] for line in listed.stdout.splitlines()] == [
        ["PreAcq", "10_volume"],
        ["PreAcq", "20_nginx"],
        ["PreAcq", "PreAcq_50_own"],
        ["PreRel", "PreRel_50_own"],
        ["PreRel", "20_nginx"],
        ["PreRel", "10_volume"],
    ]
    dry = web.cluster.locum(host, "hooks", "web", "--node", "alpha", "--run", "PreAcq", "--dry-run")
    assert dry.returncode == 0 and web.mounts.mounts() == [] and web.cluster.hooks_run() == []
    script = web.cluster.folder / "by-hand.sh"
    script.write_text(dry.stdout)
    done = host.run([*web.rooms.inside("alpha"), "sh", "-e", str(script)], timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr
    assert web.mounts.mounts() == ["alpha"] and web.cluster.hooks_run() == ["alpha PreAcq_50_own"]
    refused = web.cluster.locum(host, "hooks", "web", "--node", "alpha", "--run", "PreAcq")
    assert refused.returncode == 2 and "--dry-run" in refused.stderr
