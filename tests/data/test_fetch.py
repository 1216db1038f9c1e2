import io
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pipeline.data import fetch
from pipeline.data.fetch import download, unpack_debian_package
from pipeline.errors import ConfigError


class Machine:
    """Stands in for Debian's tools: `has_lists` tells whether apt knows the package without an update."""

    def __init__(self, *, has_lists=True, network=True):
        self.has_lists, self.network, self.commands = has_lists, network, []

    def run(self, command, *, cwd, **_options):
        self.commands.append(command[:1] + [word for word in command[1:] if not word.startswith("-o")])
        answer = self._answer(command, Path(cwd))
        return subprocess.CompletedProcess(command, returncode=100 if answer else 0, stdout="", stderr=answer)

    def _answer(self, command, cwd):
        if command[0] == "dpkg-deb":
            shutil.copy(command[2], Path(command[3]) / "unpacked")
            return ""
        if not self.network:
            return "W: a warning\nE: Failed to fetch\nE: more"
        if "update" in command:
            self.has_lists = True
            return ""
        if not self.has_lists:
            return "E: Unable to locate package"
        (cwd / f"{command[-1]}_1.0_all.deb").write_bytes(b"archive")
        return ""


def install(monkeypatch, machine):
    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(fetch.subprocess, "run", machine.run)


def test_a_package_is_downloaded_and_unpacked(tmp_path, monkeypatch):
    machine = Machine()
    install(monkeypatch, machine)
    unpack_debian_package("some-data", tmp_path)
    assert (tmp_path / "unpacked").read_bytes() == b"archive"
    assert [command[0] for command in machine.commands] == ["apt-get", "dpkg-deb"]


def test_a_relative_folder_is_the_caller_s(tmp_path, monkeypatch):
    install(monkeypatch, Machine())
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    unpack_debian_package("some-data", Path("here"))
    assert (tmp_path / "here" / "unpacked").exists()


def test_missing_lists_are_fetched_into_the_folder_and_not_the_machine(tmp_path, monkeypatch):
    machine = Machine(has_lists=False)
    seen = []

    def run(command, **options):
        seen.append(command)
        return machine.run(command, **options)

    install(monkeypatch, machine)
    monkeypatch.setattr(fetch.subprocess, "run", run)
    unpack_debian_package("some-data", tmp_path)
    assert (tmp_path / "unpacked").exists()
    updates = [command for command in seen if "update" in command]
    assert len(updates) == 1
    assert f"-o=Dir::State::Lists={tmp_path / 'lists'}" in updates[0]


def test_without_network_the_first_complaint_of_apt_is_the_reason(tmp_path, monkeypatch):
    install(monkeypatch, Machine(network=False))
    with pytest.raises(ConfigError, match=r"^apt-get exited 100 \(E: Failed to fetch\)$"):
        unpack_debian_package("some-data", tmp_path)


def test_a_machine_without_apt_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="apt-get and dpkg-deb are not on this machine"):
        unpack_debian_package("some-data", tmp_path)


def test_a_command_that_hangs_is_given_up(tmp_path, monkeypatch):
    def run(command, *, timeout, **_options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(fetch.subprocess, "run", run)
    with pytest.raises(ConfigError, match="apt-get did not finish"):
        unpack_debian_package("some-data", tmp_path)


def test_a_download_is_written_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"x" * 100_003))
    download("https://example.org/file", tmp_path / "file")
    assert (tmp_path / "file").stat().st_size == 100_003


def test_an_address_that_cannot_be_reached_is_named(tmp_path, monkeypatch):
    def urlopen(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(
        ConfigError, match=r"https://example.org/file could not be fetched .*no route to host"
    ):
        download("https://example.org/file", tmp_path / "file")
