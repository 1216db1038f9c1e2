"""The container files, which no test can build: their grammar, their shell, and what both have to agree on."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTRUCTIONS = {
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "SHELL",
    "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
}  # fmt: skip
HEADERS = {"Bootstrap", "From"}
SECTIONS = {"files", "post", "environment", "runscript", "test", "labels", "help", "setup", "startscript"}


def instructions():
    """The Dockerfile's instructions in order: lines that end with a backslash go on, comments are left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line.split(maxsplit=1) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def sections():
    """The definition's header as pairs, and the text of each section."""
    text = re.sub(r"^#.*\n", "", (ROOT / "parsimony.def").read_text(), flags=re.MULTILINE)
    head, *parts = re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)
    return dict(line.split(": ", 1) for line in head.split("\n") if line.strip()), dict(
        zip(parts[::2], parts[1::2], strict=True)
    )


def is_shell(text):
    return subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""


def test_a_dockerfile_begins_with_an_image_and_has_instructions_alone():
    names = [name for name, _ in instructions()]
    assert names[0] == "FROM"
    assert set(names) <= INSTRUCTIONS
    assert names.count("CMD") == 1


def test_commands_of_the_dockerfile_are_shell_and_make_what_there_is():
    commands = [text for name, text in instructions() if name == "RUN"]
    assert all(is_shell(text) for text in commands)
    assert any("make env" in text for text in commands)


def test_a_definition_has_its_header_and_known_sections():
    header, parts = sections()
    assert set(header) == HEADERS
    assert set(parts) <= SECTIONS
    assert {"files", "post", "runscript"} <= set(parts)


@pytest.mark.parametrize("name", ["post", "environment", "runscript", "test"])
def test_sections_of_a_definition_are_shell(name):
    assert is_shell(sections()[1][name])


def test_both_start_from_the_same_image_and_install_the_same_packages():
    header, parts = sections()
    ((_, image), *_) = instructions()
    assert image == header["From"]
    installed = [re.search(r"--no-install-recommends ([^&\n]+)", text)[1].split() for text in (
        (ROOT / "Dockerfile").read_text(), parts["post"])]  # fmt: skip
    assert installed[0][:2] == installed[1][:2] == ["g++", "make"]
