"""A Ray of the tests' own: one head on loopback, started by them and ended by its process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SETTINGS = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # an activated environment's
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_DEDUP_LOGS": "0",
}
START_SECONDS = 120


class Head(NamedTuple):
    address: str  # host:port, for $RAY_ADDRESS
    jobs: str  # the address that `ray job submit` takes


@contextlib.contextmanager
def head(num_cpus: int) -> Iterator[Head]:
    """A head with so many logical CPUs; its workers find the modules of this folder."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: the paths of Ray's sockets must fit 107 bytes
    gcs, client, dashboard, agent = _free_ports(4)
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--ray-client-server-port={client}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--temp-dir={folder}", f"--num-cpus={num_cpus}", "--object-store-memory=100000000",
    ]  # fmt: skip
    ours_too = f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, **SETTINGS, "PYTHONPATH": ours_too}
    log = (folder / "head.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        jobs = f"http://127.0.0.1:{dashboard}"
        _wait_for(f"{jobs}/api/version", process, folder / "head.log")
        yield Head(f"127.0.0.1:{gcs}", jobs)
    finally:
        # Asked politely, a raylet waits half a minute for actors of Ray's own that never end.
        for pid in _session(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _session(leader: int) -> list[int]:
    """The processes of the session that the head began: its daemons and workers, and nobody else's."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()  # after the name: state, parent, group, session
            if int(fields[3]) == leader:
                found.append(int(stat.parent.name))
    return found


def _free_ports(count: int) -> list[int]:
    """Ports outside 10002 to 19999, which Ray gives to its workers."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            one = held.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            if not 10002 <= one.getsockname()[1] <= 19999:
                ports.append(one.getsockname()[1])
        return ports


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(f"no Ray head: {log.read_text(errors='replace')[-2000:]}")
