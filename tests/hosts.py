"""Machines made of Linux namespaces, for tests of clusters: root is needed, and nothing outside them changes.

A machine has its own network, mounts, processes and name: so its own address, /tmp, /dev/shm, home and sshd, and a
`ray stop` in it sees only its own Ray. The first machine, the desk, holds the bridge that joins them all, and the
others' processes live inside the desk's process namespace. Nothing leads out: the bridge is joined to nothing else.

Everything ends with the desk's first process, a `cat` that reads a pipe from us. However we die, the pipe closes, the
cat ends, and the kernel kills all that is left in the namespace.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).parent.parent
NETWORK = "10.77.0"
HOME = "/mnt/home"  # of root on every machine
SHARED = "/mnt/shared"  # the folder that all machines see
KINDS = ("net", "mnt", "uts", "pid")
PACKAGES = {"sshd": "openssh-server", "ssh-keygen": "openssh-client", "rsync": "rsync", "ip": "iproute2"}

# Sources of mounts first, then what hides them. While SIGCHLD is ignored the kernel reaps orphans: Ray's daemons are
# orphans, and `ray stop` waits until those that it ends are gone. Without cgroups Ray counts the CPUs that are online.
_START = """
set -e
hostname {name}
ip link set lo up
mount -t tmpfs tmpfs /mnt
mkdir {HOME} {SHARED} /mnt/repo
mount --bind {folder}/home {HOME}
mount --bind {shared} {SHARED}
mount --bind {REPO} /mnt/repo
for file in passwd hosts; do mount --bind {folder}/$file /etc/$file; done
mount --bind {folder}/online /sys/devices/system/cpu/online
mount -t tmpfs -o ro tmpfs /sys/fs/cgroup
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd {REPO}
mount --bind /mnt/repo {REPO}
{more}
echo ready
exec env --ignore-signal=CHLD cat
"""

# The checkout cannot be imported on a host, and its environment cannot change: what runs there came with the job.
_HOST = """
mount -o remount,bind,ro {REPO}
mount -t tmpfs -o ro tmpfs {REPO}/python
"""


def missing() -> str | None:
    """Why there can be no machines here, in one line; None when there can."""
    if os.geteuid() != 0:
        return "hosts made of namespaces need root: run it as root"
    absent = {name: package for name, package in PACKAGES.items() if not shutil.which(name)}
    if absent:
        packages = " ".join(dict.fromkeys(absent.values()))
        return f"{', '.join(absent)} missing; on Debian and Ubuntu: apt install {packages}"
    return None


class Machine:
    """folder holds its home and the logs of its commands; shared is, out here, what machines see at SHARED."""

    def __init__(self, name: str, address: str, folder: Path, shared: Path, desk: Machine | None = None) -> None:
        self.name, self.address, self.folder, self.shared = name, address, folder, shared
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        (folder / "passwd").write_text(f"root:x:0:0:root:{HOME}:/bin/bash\nsshd:x:100:65534::/run/sshd:/bin/false\n")
        # As Debian writes it: a machine's own name leads to loopback, which is no use to its peers.
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        (folder / "online").write_text("0\n")  # one CPU
        (self.home / ".bashrc").touch()
        within = ["nsenter", f"--pid=/proc/{desk.pid}/ns/pid"] if desk else []
        more = _HOST.format(REPO=REPO) if desk else ""
        script = _START.format(name=name, folder=folder, shared=shared, more=more, REPO=REPO, HOME=HOME, SHARED=SHARED)
        unshare = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc"]
        with (folder / "start.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*within, *unshare, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        self.started = [self.process]
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"machine {name} did not start: {(folder / 'start.log').read_text()}")
        self.pid = self.process.pid  # of the machine's first process, as seen from outside
        for _ in range(2 if desk else 1):  # nsenter and unshare fork
            self.pid = int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text())
        self.namespaces = namespaces_of(self.pid)

    def command(self, *command: str | Path, **environment: str) -> list[str]:
        """The command that runs `command` on this machine, with a login's environment and no more."""
        path = f"{REPO}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = {"PATH": path, "HOME": HOME, "LANG": "C.UTF-8", **environment}
        enter = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--uts", "--pid", f"--wd={REPO}"]
        return [*enter, "env", "-i", *(f"{name}={value}" for name, value in variables.items()), *map(str, command)]

    def start(self, *command: str | Path, log: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a command whose output goes to folder/log: a pipe would stay open in the daemons that it leaves."""
        with (self.folder / log).open("wb") as output:
            process = subprocess.Popen(
                self.command(*command, **environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.started.append(process)
        return process

    def run(self, *command: str | Path, log: str, seconds: float, **environment: str) -> str:
        """What a command printed. Raises AssertionError with it when the command fails or takes longer."""
        process = self.start(*command, log=log, **environment)
        try:
            status: int | str = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            status = f"not done after {seconds:g} s"
        output = (self.folder / log).read_text(errors="replace")
        assert status == 0, f"{self.name}: {' '.join(map(str, command))}: {status}\n{output}"
        return output

    def processes(self) -> list[str]:
        """Command lines of what runs on this machine, its first process left out."""
        found = processes_in(self.namespaces, kinds=("pid",))
        return [line for pid, line in found.items() if pid != self.pid]


def namespaces_of(pid: int | str, kinds: Iterable[str] = KINDS) -> set[str]:
    return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in kinds}


def processes_in(namespaces: set[str], kinds: Iterable[str] = KINDS) -> dict[int, str]:
    """Command lines by pid of all processes that have one of these namespaces."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if namespaces_of(path.name, kinds) & namespaces:
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
    return found


def left_behind(machines: list[Machine]) -> dict[int, str]:
    """What still runs in the machines' namespaces. A namespace without a process is gone: none of them has a name."""
    return processes_in(set().union(*(machine.namespaces for machine in machines)))


@contextmanager
def machines(folder: Path, *names: str) -> Iterator[list[Machine]]:
    """The desk and a host for each name, joined by a bridge; every host runs an sshd that lets the desk's key in."""
    shared, made = folder / "shared", []
    shared.mkdir(parents=True)
    try:
        desk = Machine("desk", f"{NETWORK}.1", folder / "desk", shared)
        made.append(desk)
        _ip(desk, "link add br0 type bridge")
        _ip(desk, f"addr add {desk.address}/24 dev br0")
        _ip(desk, "link set br0 up")
        _new_key(desk.home / "key")
        for number, name in enumerate(names, 2):
            host = Machine(name, f"{NETWORK}.{number}", folder / name, shared, desk)
            made.append(host)
            _ip(desk, f"link add to-{name} type veth peer name lan0 netns {host.pid}")
            _ip(desk, f"link set to-{name} master br0 up")
            _ip(host, f"addr add {host.address}/24 dev lan0")
            _ip(host, "link set lan0 up")
            _ip(host, f"route add default via {desk.address}")  # by its default route Ray finds a host's address
            _start_sshd(host, desk.home / "key.pub")
        yield made
    finally:
        if made:
            os.kill(made[0].pid, signal.SIGKILL)
        for process in [process for machine in made for process in machine.started]:
            process.communicate()


def _new_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def _ip(machine: Machine, words: str) -> None:
    # Only the network is entered: a veth's other end is named by a pid as it is outside.
    command = ["nsenter", "--target", str(machine.pid), "--net", "ip", *words.split()]
    subprocess.run(command, check=True)


def _start_sshd(host: Machine, public_key: Path) -> None:
    _new_key(host.home / "host_key")
    shutil.copy(public_key, host.home / "authorized_keys")
    options = {
        "HostKey": f"{HOME}/host_key",
        "AuthorizedKeysFile": f"{HOME}/authorized_keys",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
        "UsePAM": "no",
        "PidFile": "none",
        "ListenAddress": host.address,
    }
    sshd = shutil.which("sshd") or ""  # it insists on its full path
    (host.home / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    host.start(sshd, "-D", "-e", "-f", f"{HOME}/sshd_config", log="sshd.log")


if __name__ == "__main__":  # two hosts to look around in, until a line or the end of the input
    import tempfile

    with tempfile.TemporaryDirectory() as folder, machines(Path(folder), "head", "worker") as made:
        for machine in made:
            print(" ".join(machine.command("bash")), flush=True)
        sys.stdin.readline()
