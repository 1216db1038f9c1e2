"""A real Slurm for the tests, and checkouts whose studies run on it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import yaml
from safetensors.numpy import load_file

# Seconds until a condition must hold, on a machine that may be busy with other work.
PATIENCE = 900.0

# A training of some seconds, long enough to stop in the middle; one of an instant; and one matrix.
MINI = {
    "study": "mini",
    "seeds": [0],
    "dataset": {"name": "digits", "train_samples": 256, "validation_samples": 64},
    "model": {"name": "mlp", "hidden": [16]},
    "training": {
        "runs": {
            "long": {"optimizer": {"name": "kfac", "lr": 0.1}, "batch_size": 32, "epochs": 60},
            "short": {"optimizer": {"name": "sgd", "lr": 0.05}, "batch_size": 64, "epochs": 1},
        },
    },
    "precision": {"runs": ["short"], "min_samples": 5},
    "matrices": {
        "airports": {
            "points": {"name": "airports", "n": 1500},
            "kernel": {"name": "matern", "nu": 0.5, "length_scale": 0.1},
            "nugget": 0.01,
            "task": "kriging",
            "compress": {"tolerance": 1e-4},
        },
    },
}
LONG = "train/long/seed0"

# A main process that asks for states every other second; normally it asks ten seconds later each time nothing ended.
IMPATIENT = """
import os
if "SLURMD_NODENAME" not in os.environ and "snakemake" in " ".join(sys.orig_argv):
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
    RemoteExecutor.next_seconds_between_status_checks = property(lambda self: 2, lambda self, seconds: None)
"""


def wait_until(condition, what):
    """Wait for a condition and return its value."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what}"
        time.sleep(0.1)
    return found


def is_asked_to_end(pid):
    """Whether a stopped process will obey a SIGTERM when it continues, or was continued by the sender, or is gone."""
    try:
        with open(f"/proc/{pid}/status") as status:
            words = dict(line.split(":", 1) for line in status)
    except OSError:
        return True
    bit = signal.SIGTERM - 1
    pending = any(int(words[kind], 16) >> bit & 1 for kind in ("SigPnd", "ShdPnd"))
    return pending or not words["State"].strip().startswith("T")


@dataclass
class Slurm:
    """A running testbed; it lives until its process's input is closed."""

    folder: Path
    keeper: subprocess.Popen

    @property
    def environment(self):
        """The environment variables that find this Slurm."""
        return {"PATH": f"{self.folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"}

    def tell(self, line):
        """Send `kill NAME`, `stop NAME` or `start NAME` for a daemon."""
        print(line, file=self.keeper.stdin, flush=True)
        answer = self.keeper.stdout.readline().strip()
        assert answer == "done", f"{line}: {answer}"

    def call(self, *command):
        """Return the output of one of Slurm's clients; a controller that is just starting is asked again."""

        def answer():
            done = subprocess.run(
                command,
                env=os.environ | self.environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            return (done.stdout,) if done.returncode == 0 else None

        return wait_until(answer, " ".join(command))[0]

    def queue(self):
        """The ids of all waiting or running jobs."""
        return self.call("squeue", "--noheader", "--sort=i", "--format=%i").split()

    def states(self, job):
        """The states of a job, one for each time that it was started."""
        listed = self.call("sacct", "--duplicates", "-X", "-n", "-P", "-j", job, "--format=State")
        return [line.split()[0] for line in listed.splitlines()]

    def wait_for_states(self, job, *states):
        """Wait until Slurm's database, which lags some time behind the controller, has these states of a job."""
        wait_until(lambda: self.states(job) == list(states), f"job {job} to be {' and then '.join(states)}")

    def all_jobs(self):
        """The number of jobs that there have ever been."""
        return len(set(self.call("sacct", "-X", "-n", "-P", "--format=JobID").split()))

    def repair(self):
        """Bring all nodes and the controller back into service."""
        for name in ("slurmctld", "c1", "c2", "g1", "g2", "m1", "m2"):
            if not (self.folder / "run" / f"{name}.pid").exists():
                self.tell(f"start {name}")
        (self.folder / "epilog").unlink(missing_ok=True)
        for job in self.queue():
            self.call("scancel", job)
        wait_until(lambda: not self.queue(), "the queue to be empty")

        def serve():
            nodes = self.call("sinfo", "-h", "-N", "-o", "%N %T").split("\n")
            return all(line.endswith(" idle") for line in nodes if line)

        wait_until(serve, "all nodes to serve")


@dataclass
class Main:
    """A main process of Snakemake, and its output."""

    process: subprocess.Popen
    log: Path

    @property
    def said(self):
        return self.log.read_text()

    def end(self, code=0):
        """Wait for the process to end and return its output."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"snakemake did not end in {PATIENCE:.0f} s: {self.said}") from None
        assert self.process.returncode == code, self.said
        return self.said


class Place:
    """A checkout with a study that runs on Slurm."""

    def __init__(self, folder, slurm, study):
        self.folder, self.slurm, self.name = folder, slurm, study
        self.mains = []
        self.stopped = []

    def customize(self, code):
        """Make every Python process of the checkout run this code first."""
        with (self.folder / "src" / "sitecustomize.py").open("a") as file:
            file.write(code)

    @property
    def results(self):
        return self.folder / "results" / self.name

    def manifest(self, path):
        """The target path of an artefact of the study."""
        return f"results/{self.name}/{path}/manifest.json"

    def write_profile(self, *, rules, **keys):
        """Derive a profile from the cluster's, with other keys and other resources of rules."""
        profile = yaml.safe_load((self.folder / "cluster" / "config.yaml").read_text())
        profile |= {"jobs": 4, "slurm-init-seconds-before-status-checks": 2, **keys}
        for rule, resources in rules.items():
            profile["set-resources"][rule] = profile["set-resources"].get(rule, {}) | resources
        (self.folder / "profiles" / "own").mkdir(exist_ok=True)
        (self.folder / "profiles" / "own" / "config.yaml").write_text(yaml.safe_dump(profile))

    def start(self, *arguments):
        """Start Snakemake with the study's own profile if there is one, otherwise with the cluster's."""
        own = (self.folder / "profiles" / "own").exists()
        few = ("--jobs", "4", "--slurm-init-seconds-before-status-checks", "2")
        profile = ("--profile", "profiles/own") if own else ("--profile", "cluster", *few)
        return self._start(*profile, *arguments)

    def start_here(self, *arguments):
        """Start Snakemake without Slurm, with as many processes in each rule as with it."""
        same = ("--set-resources", "train:tasks=2", "solve:tasks=2")
        return self._start("--cores", "2", *arguments, *same)

    @property
    def environment(self):
        """The environment of a user's shell in the checkout."""
        # One thread everywhere: values that are compared by checksum must not depend on the number of cores.
        own = {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"}
        return os.environ | self.slurm.environment | own

    def call(self, *command):
        """Return the output of a command that a user types in the checkout."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _start(self, *arguments):
        log = self.folder / f"main{len(self.mains)}.txt"
        with log.open("w") as file:
            process = subprocess.Popen(
                # --configfile takes all words that follow it, even targets, so it comes first.
                ["snakemake", "--configfile", f"{self.name}.yaml", *arguments],
                cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.mains.append(Main(process, log))
        return self.mains[-1]

    def checksums(self):
        """The checksum of every array and tensor except measured times."""
        found = {}
        for file in self.results.rglob("*.npy"):
            found[str(file.relative_to(self.results))] = sha256(file.read_bytes()).hexdigest()
        for file in self.results.rglob("*.safetensors"):
            for name, tensor in load_file(file).items():
                if not name.endswith("seconds"):
                    found[f"{file.relative_to(self.results)}:{name}"] = sha256(tensor.tobytes()).hexdigest()
        return found

    def processes(self):
        """Processes that work in this folder, and their command lines."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "cwd") == str(self.folder):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
        return found

    def trainings(self):
        """Processes that train."""
        return [
            pid for pid, words in self.processes().items() if words[1:5] == ["-m", "mpi4py", "-m", "pipeline"]
        ]

    def stop_in_the_middle(self, main):
        """Wait until a training has written a checkpoint, stop its processes there, and return Slurm's id of its job.

        However fast the machine is, the test's next action then happens in the middle of the training.
        """

        def written():
            assert main.process.poll() is None, main.said
            return list((self.folder / "results" / "checkpoints").glob("*/checkpoint.json"))

        wait_until(written, "a checkpoint")
        self.stopped = self.trainings()
        for pid in self.stopped:
            os.kill(pid, signal.SIGSTOP)
        return self.slurm.queue()[-1]

    def go_on(self, *, when_asked_to_end=False):
        """Continue the stopped processes; on request, only once they have been asked to end."""
        for pid in self.stopped:
            if when_asked_to_end:
                wait_until(lambda pid=pid: is_asked_to_end(pid), "the signal to end")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def log_of(self, path):
        """The log of a job."""
        return (self.results / "logs" / f"{path}.txt").read_text()

    def close(self):
        """End all processes that a test has left."""
        for main in self.mains:
            if main.process.poll() is None:
                main.process.kill()
                main.process.wait()
        for job in self.slurm.queue():
            self.slurm.call("scancel", job)
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
