"""Downloads: files of a Debian package, without root, or over HTTPS."""

import http.client
import shutil
import subprocess
import urllib.request
from pathlib import Path

from pipeline.errors import ConfigError

# apt's sandbox user could not write into the folder, and a missing network should show in seconds.
APT_OPTIONS = (
    "-qq",
    "-o=APT::Sandbox::User=root",
    "-o=Acquire::Retries=0",
    "-o=Acquire::http::Timeout=20",
    "-o=Acquire::https::Timeout=20",
)
APT_SECONDS = 300
HTTPS_SECONDS = 30


def unpack_debian_package(package: str, folder: Path) -> None:
    """Download a package by apt and unpack it under the existing `folder`; needs Debian's tools, but no root.

    If apt cannot download the package, as in most containers, which have no package lists, the lists are fetched into
    the folder; the machine's lists are not changed.

    Raises:
        ConfigError: If there is no apt, no such package or no network.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ConfigError("apt-get and dpkg-deb are not on this machine")
    folder = folder.resolve()  # the commands below run in it
    try:
        _run(["apt-get", *APT_OPTIONS, "download", package], folder)
    except ConfigError:
        for name in ("lists", "cache"):
            (folder / name).mkdir(exist_ok=True)
        own = (f"-o=Dir::State::Lists={folder / 'lists'}", f"-o=Dir::Cache={folder / 'cache'}")
        _run(["apt-get", *APT_OPTIONS, *own, "update"], folder)
        _run(["apt-get", *APT_OPTIONS, *own, "download", package], folder)
    archives = list(folder.glob(f"{package}_*.deb"))
    if len(archives) != 1:
        raise ConfigError(f"apt-get left {len(archives)} archives of {package}, wanted one")
    _run(["dpkg-deb", "-x", str(archives[0]), str(folder)], folder)


def download(url: str, path: Path) -> None:
    """Download one file over HTTPS to `path`.

    Raises:
        ConfigError: If the address cannot be reached or the transfer breaks off.
    """
    try:
        with urllib.request.urlopen(url, timeout=HTTPS_SECONDS) as response, path.open("wb") as file:
            shutil.copyfileobj(response, file)
    except (OSError, http.client.HTTPException) as failure:
        raise ConfigError(f"{url} could not be fetched ({failure})") from failure


def _run(command: list[str], folder: Path) -> None:
    try:
        finished = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=APT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise ConfigError(f"{command[0]} did not finish ({failure})") from failure
    if finished.returncode != 0:
        lines = finished.stderr.splitlines()
        said = next((line for line in lines if line.startswith("E:")), " ".join(lines[-1:]))
        raise ConfigError(f"{command[0]} exited {finished.returncode} ({said})")
