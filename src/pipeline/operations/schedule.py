"""Command `schedule`: entries for reruns in the user's crontab, systemd or scrontab.

An entry is a template in `workflow/schedule` with its blanks filled in. In a crontab, lines above and below the entry
name the checkout and the study, so that it is found again and nothing else is touched.
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.operations.studies import StudyFile, find_profile, read_study

TEMPLATES = Path("workflow") / "schedule"
DEFAULT_TIME = {"crontab": "30 3 * * *", "scrontab": "30 3 * * *", "timer": "*-*-* 03:30:00"}
# Variables that a scheduler's bare environment lacks, and by which a study finds its programs and libraries.
WHERE_THINGS_ARE = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "SLURM_CONF")
CRON_FIELD = re.compile(r"[0-9A-Za-z*/,-]+\Z")
# The words of cronie, Debian's cron, Slurm and busybox; any other failure may mean that a table exists.
NO_TABLE = re.compile(r"(?i)\bno s?crontab for\b|can't open '[^']*': no such file")
CALENDAR = re.compile(
    r"(minutely|hourly|daily|weekly|monthly|quarterly|semiannually|yearly|annually)\Z"
    r"|(?=.*[-:])[0-9A-Za-z*/,.:~ -]+\Z"
)


def run(options: Namespace) -> None:
    """Install, remove or show the entry of a study."""
    study = read_study(options.study)
    find_profile(options.profile)
    if re.search(r"[\n\r\0]", str(Path.cwd())):
        raise ConfigError(
            f"{str(Path.cwd())!r}: no scheduler takes a line break in a path; move the checkout"
        )
    folder = hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:8]
    name, entry = f"parsimony-{study.name}-{folder}", scheduled_run(study, options)
    place = Units(name, entry) if options.scheduler == "timer" else Tables(name, entry, options.scheduler)
    if options.only_print:
        print(place.text)
    elif options.action == "install":
        place.install()
        print(f"installed in {place}:\n{place.text}")
        if options.scheduler == "timer":
            print("it stops when you log out; to let it go on, run: loginctl enable-linger")
    elif options.action == "remove":
        print(
            f"removed from {place}" if place.remove() else f"{place} has no rerun of {study.name} from here"
        )
    else:
        print(place.shown() or f"{place} has no rerun of {study.name} from here")


def scheduled_run(study: StudyFile, options: Namespace) -> dict[str, str]:
    """Return the values for the blanks of a template: what runs, where and when, quoted as the scheduler needs it."""
    time = options.at or DEFAULT_TIME[options.scheduler]
    timer = options.scheduler == "timer"
    fields = time.split()
    named = len(fields) == 1 and re.fullmatch(
        r"@(hourly|daily|midnight|weekly|monthly|yearly|annually)", time
    )
    if timer and not CALENDAR.match(time):
        raise ConfigError(f"--at: {time!r} is no calendar of systemd, such as 'daily' or '*-*-* 03:30:00'")
    if not timer and not named and not (len(fields) == 5 and all(map(CRON_FIELD.match, fields))):
        raise ConfigError(f"--at: {time!r} is not cron's five fields, such as '30 3 * * *', nor @daily")
    wanted = str(study.path) if study.path.parent != Path("config") else study.path.stem
    install = options.action == "install"
    if install and options.scheduler == "scrontab" and options.profile == "local" and not options.cores:
        raise ConfigError(
            "--profile: in scrontab a rerun is a job of one core; give a profile that sends its jobs to Slurm, such as "
            "--profile cluster, or --cores 1"
        )
    known = [f"{name}={os.environ[name]}" for name in WHERE_THINGS_ARE if name in os.environ]
    words = ["/usr/bin/env", *known]
    words += [sys.executable, "-m", "pipeline", "rerun", "--study", wanted, "--profile", options.profile]
    words += ["--keep", str(options.keep), *(["--cores", str(options.cores)] if options.cores else [])]
    if timer:
        # systemd has its own quotes, and both % and $ mean something in its files.
        escapes = str.maketrans({"\\": "\\\\", '"': '\\"', "%": "%%", "$": "$$"})
        command = " ".join(f'"{word.translate(escapes)}"' for word in words)
        where = str(Path.cwd()).replace("%", "%%")
    else:
        # cron turns % into a line break wherever it stands, even in quotes.
        command, where = (
            text.replace("%", r"\%") for text in (shlex.join(words), shlex.quote(str(Path.cwd())))
        )
    return {"STUDY": study.name, "FOLDER": where, "COMMAND": command, "TIME": time}


def fill(template: str, entry: Mapping[str, str]) -> str:
    """Fill in the blanks of a template in one pass; a value that looks like a blank stays as it is."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda blank: entry[blank.group(1)], text)


def _ran(*command: str, given: str = "") -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise ConfigError(
            f"{command[0]} is not on this machine; choose another with --with: crontab, timer or scrontab"
        )
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split())


class Tables:
    """The user's crontab or scrontab, which is always read and replaced as a whole."""

    def __init__(self, name: str, entry: Mapping[str, str], program: str) -> None:
        self.program, self.begin, self.end = program, f"# begin {name}", f"# end {name}"
        #: The entry between the lines that mark it.
        self.text = f"{self.begin}\n{fill(program, entry)}{self.end}"

    def __str__(self) -> str:
        return f"the {self.program}"

    def _divided(self) -> tuple[list[str], list[str]]:
        """Return the lines between the marks, and all other lines."""
        done = _ran(self.program, "-l")
        if done.returncode != 0 and not NO_TABLE.search(done.stderr + done.stdout):
            raise ConfigError(f"{self.program} -l: {_words(done)}")
        own: list[str] = []
        others: list[str] = []
        inside = False
        for line in done.stdout.splitlines() if done.returncode == 0 else []:
            inside = inside or line == self.begin
            (own if inside else others).append(line)
            inside = inside and line != self.end
        if inside:
            raise ConfigError(
                f"{self}: '{self.begin}' has no '{self.end}' after it; correct it by hand first"
            )
        return own, others

    def _write(self, lines: list[str]) -> None:
        done = _ran(self.program, "-", given="".join(f"{line}\n" for line in lines))
        if done.returncode != 0:
            raise ConfigError(f"{self.program} refused the entry: {_words(done)}")

    def install(self) -> None:
        """Add the entry, in place of a former one."""
        self._write([*self._divided()[1], *self.text.splitlines()])

    def remove(self) -> bool:
        """Remove the entry; False if there is none."""
        own, others = self._divided()
        if own:
            self._write(others)
        return bool(own)

    def shown(self) -> str:
        return "\n".join(self._divided()[0])


class Units:
    """Two files for the user's systemd."""

    def __init__(self, name: str, entry: Mapping[str, str]) -> None:
        home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        self.folder, self.timer = Path(home) / "systemd" / "user", f"{name}.timer"
        self.files = {
            self.folder / f"{name}.{kind}": fill(f"parsimony.{kind}", entry) for kind in ("service", "timer")
        }
        #: Both files, one after the other.
        self.text = "\n".join(f"# {file}\n{text}" for file, text in self.files.items()).rstrip()

    def __str__(self) -> str:
        return str(self.folder)

    def install(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for file, text in self.files.items():
            file.unlink(missing_ok=True)  # so that a link is not followed
            file.write_text(text, encoding="utf-8")
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", self.timer)

    def remove(self) -> bool:
        """Stop the timer and delete the files; False if there are none."""
        found = [file for file in self.files if file.exists()]
        if found:
            _systemctl("disable", "--now", self.timer)
            for file in found:
                file.unlink()
            _systemctl("daemon-reload")
        return bool(found)

    def shown(self) -> str:
        return "\n".join(
            f"# {file}\n{file.read_text(encoding='utf-8')}" for file in self.files if file.exists()
        )


def _systemctl(*arguments: str) -> None:
    done = _ran("systemctl", "--user", *arguments)
    if done.returncode != 0:
        raise ConfigError(f"systemctl --user {arguments[0]}: {_words(done)}")
