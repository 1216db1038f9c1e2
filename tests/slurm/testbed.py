"""A real Slurm on this one machine: controller, accounting and six nodes, for as long as somebody holds its input open.

    python tests/slurm/testbed.py FOLDER

Prints `ready` when every node is idle, then obeys lines: `kill NAME`, `stop NAME`, `start NAME` for a daemon (munged,
mariadbd, slurmdbd, slurmctld, c1, c2, g1, g2, m1, m2), and answers each with `done` or `error: ...`. When its input
ends, because it was closed or because whoever held it died, everything is taken down and the folder removed.

All daemons are children of this process, and so becomes, by the kernel's subreaper, every process that they leave
behind: job steps outlive their slurmd, and without cgroups a killed job leaves processes. So to end all that ever
started here is to end the descendants of this process, and nothing else on the machine.

Needs no root, no systemd and no cgroups once Debian's packages are there (`tests/slurm/packages`). Use it by hand with
`. FOLDER/environment`.
"""

import ctypes
import getpass
import os
import secrets
import select
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CONF = Path(__file__).with_name("conf")
NODES = ("c1", "c2", "g1", "g2", "m1", "m2")
CLIENTS = ("sacct", "sacctmgr", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# What a machine busy with other work may need for what takes a second.
PATIENCE = 120.0


class BringUpError(Exception):
    """A daemon did not start; the text ends with the end of its log."""


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@contextmanager
def free_ports(n: int) -> Iterator[list[int]]:
    """Ports of the loopback interface that nobody else has while the block runs."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def descendants(root: int) -> list[int]:
    """Processes that descend from a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    to_visit = [root]
    while to_visit:
        below = children.get(to_visit.pop(), [])
        found += below
        to_visit += below
    return found


class Testbed:
    """The daemons of one Slurm, in a folder of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "MUNGE_"))
        }
        self.environment["SLURM_CONF"] = str(state / "slurm.conf")
        self.environment["PATH"] += ":/usr/sbin:/sbin"

    def up(self) -> None:
        """Start everything, and return when every node is idle and has run a job."""
        self._write_files()
        self.start("munged")
        self._wait_for("munged", ["munge", "-n", "-S", f"{self.state}/munge.socket"])
        self._make_database()
        self.start("slurmdbd")
        self._wait_for("slurmdbd", ["sacctmgr", "-n", "list", "cluster"])
        me = getpass.getuser()
        for command in (
            ["add", "cluster", "testbed"],
            ["add", "account", "ci", "Description=ci", "Organization=ci"],
            ["add", "user", me, "Account=ci", "DefaultAccount=ci", "AdminLevel=Admin"],
            ["modify", "user", "where", f"name={me}", "set", "DefaultAccount=ci"],
        ):
            # Root is there from the start, and to add it again is an error.
            self._call(["sacctmgr", "-iQ", *command])
        self.start("slurmctld")
        self._wait_for("slurmctld", ["scontrol", "ping"])
        for node in NODES:
            self.start(node)
        self._until("nodes to be idle", self._all_idle)
        self._wait_for("slurmctld", ["srun", "-Q", "-p", "cpu", "-t", "1", "true"])

    def start(self, name: str) -> None:
        """Start a daemon in the foreground of a session of its own."""
        state = str(self.state)
        commands = {
            "munged": [
                "munged", "--foreground", "--force", f"--socket={state}/munge.socket",
                f"--key-file={state}/munge.key", f"--pid-file={state}/run/munged.slurm",
                f"--log-file={state}/log/munged.log", f"--seed-file={state}/munge.seed",
            ],
            "mariadbd": [
                "mariadbd", "--no-defaults", f"--user={getpass.getuser()}", f"--datadir={state}/database",
                f"--socket={state}/database.socket", f"--pid-file={state}/run/mariadbd.slurm",
                "--bind-address=127.0.0.1", f"--port={self.ports['DATABASE']}", "--skip-log-bin",
                "--innodb-buffer-pool-size=64M",
                "--innodb-log-file-size=32M", "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0",
                "--performance-schema=OFF", f"--log-error={state}/log/mariadbd.log",
            ],
            "slurmdbd": ["slurmdbd", "-D"],
            "slurmctld": ["slurmctld", "-D"],
        }  # fmt: skip
        command = commands.get(name) or ["slurmd", "-D", "-N", name]
        with (self.state / "log" / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.state,
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        (self.state / "run" / f"{name}.pid").write_text(str(self.daemons[name].pid))

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a daemon and wait until it is gone."""
        daemon = self.daemons.pop(name)
        daemon.send_signal(how)
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        (self.state / "run" / f"{name}.pid").unlink()

    def lines(self) -> Iterator[str]:
        """Lines of input; between them, what ended among the adopted is collected: Slurm waits for it to be gone."""
        received = b""
        while True:
            ready, _, _ = select.select([0], [], [], 0.5)
            daemons = {daemon.pid for daemon in self.daemons.values()}
            for pid in set(descendants(os.getpid())) - daemons:
                self._reaped(pid)
            if ready:
                part = os.read(0, 4096)
                if not part:
                    return
                *whole, received = (received + part).split(b"\n")
                yield from (line.decode() for line in whole)

    def obey(self, line: str) -> None:
        """Do what a line of input says."""
        verb, name = line.split()
        if verb == "start":
            self.start(name)
        else:
            self.stop(name, signal.SIGKILL if verb == "kill" else signal.SIGTERM)

    def down(self) -> None:
        """End every process that ever started here, and remove the folder."""
        for name in [*NODES, "slurmctld", "slurmdbd", "mariadbd", "munged"]:
            if name in self.daemons:
                # Their state is of no further use.
                self.daemons.pop(name).kill()
        deadline = time.monotonic() + 30
        while left := [pid for pid in descendants(os.getpid()) if not self._reaped(pid)]:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                print(f"error: processes {left} do not end", flush=True)
                break
            time.sleep(0.05)
        shutil.rmtree(self.state, ignore_errors=True)

    @staticmethod
    def _reaped(pid: int) -> bool:
        """Collect a child that has ended."""
        try:
            return os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            return False

    def _write_files(self) -> None:
        state = self.state
        of_nodes = (f"{top}/{node}" for node in NODES for top in ("spool", "tmp"))
        for folder in ("run", "log", "controller", "devices", *of_nodes):
            (state / folder).mkdir(parents=True)
        for device in ("nvidia0", "nvidia1"):
            (state / "devices" / device).symlink_to("/dev/null")
        for name, content in (
            ("munge.key", secrets.token_bytes(1024)),
            ("password", secrets.token_hex(16).encode()),
        ):
            (state / name).touch(mode=0o600)
            (state / name).write_bytes(content)
        names = ("CONTROLLER", "ACCOUNTING", "DATABASE", *(node.upper() for node in NODES))
        with free_ports(len(names)) as ports:
            self.ports = dict(zip(names, ports, strict=True))
        words = {f"{name}_PORT": str(port) for name, port in self.ports.items()} | {
            "STATE": str(state),
            "HOST": socket.gethostname().partition(".")[0],
            "USER": getpass.getuser(),
            "PASSWORD": (state / "password").read_text(),
        }
        for name in ("slurm.conf", "gres.conf", "slurmdbd.conf"):
            (state / name).touch(mode=0o600 if name == "slurmdbd.conf" else 0o644)
            (state / name).write_text(string.Template((CONF / name).read_text()).substitute(words))
        # What a test wants done at the end of every task, in a file of this name.
        (state / "task_epilog").write_text(f"#!/bin/sh\n[ ! -e {state}/epilog ] || . {state}/epilog\n")
        (state / "task_epilog").chmod(0o755)
        # Clients that find this Slurm by themselves: a job step may drop SLURM_CONF before it calls srun.
        (state / "bin").mkdir()
        for client in CLIENTS:
            file = state / "bin" / client
            file.write_text(f'#!/bin/sh\nSLURM_CONF={state}/slurm.conf exec {shutil.which(client)} "$@"\n')
            file.chmod(0o755)
        (state / "environment").write_text(
            f"export SLURM_CONF={state}/slurm.conf PATH={state}/bin:$PATH:/usr/sbin\n"
        )

    def _make_database(self) -> None:
        made = self._call([
            "mariadb-install-db", "--no-defaults", f"--datadir={self.state}/database", f"--user={getpass.getuser()}",
            "--skip-test-db", "--auth-root-authentication-method=normal",
        ])  # fmt: skip
        if made.returncode:
            raise BringUpError(f"mariadb-install-db failed: {made.stdout[-2000:]}")
        self.start("mariadbd")
        client = ["mariadb", "--no-defaults", "-uroot", "-S", f"{self.state}/database.socket", "-e"]
        self._wait_for("mariadbd", [*client, "select 1"])
        password = (self.state / "password").read_text()
        statements = "create database slurm_acct_db;" + "".join(
            f"create user 'slurm'@'{host}' identified by '{password}';"
            f"grant all on slurm_acct_db.* to 'slurm'@'{host}';"
            for host in ("127.0.0.1", "localhost")
        )
        self._wait_for("mariadbd", [*client, statements])

    def _call(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip

    def _wait_for(self, name: str, command: list[str]) -> None:
        """Wait until a command succeeds that needs the daemon of this name."""

        def answers() -> bool:
            if self.daemons[name].poll() is not None:
                raise BringUpError(
                    f"{name} ended with {self.daemons[name].returncode}; {self._end_of_log(name)}"
                )
            return self._call(command).returncode == 0

        self._until(f"{name} to answer; {self._end_of_log(name)}", answers)

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise BringUpError(f"waited {PATIENCE:.0f} s for {what}")
            time.sleep(0.1)

    def _all_idle(self) -> bool:
        listed = self._call(["sinfo", "-h", "-N", "-o", "%N %T"]).stdout.splitlines()
        return {line.split()[0] for line in listed if line.split()[1:] == ["idle"]} >= set(NODES)

    def _end_of_log(self, name: str) -> str:
        files = (self.state / "log" / f"{name}.{kind}" for kind in ("log", "out"))
        return " ".join(file.read_text(errors="replace")[-1000:] for file in files if file.exists())


def main() -> int:
    """Bring up, obey, take down."""
    adopt_orphans()
    for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(asked, lambda signum, _: sys.exit(128 + signum))
    testbed = Testbed(Path(sys.argv[1]).absolute())
    try:
        testbed.up()
        print("ready", flush=True)
        for line in testbed.lines():
            try:
                testbed.obey(line)
            except (KeyError, ValueError) as error:
                print(f"error: {line.strip()}: {error!r}", flush=True)
            else:
                print("done", flush=True)
    except BringUpError as error:
        print("error:", " ".join(str(error).split()), flush=True)
        return 1
    finally:
        testbed.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
