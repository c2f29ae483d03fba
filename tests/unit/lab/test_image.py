"""Where the base image's packages come from."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fleet_lab import image

THIRD_PARTIES = {
    "cloud.list": "deb https://third.example.com/apt sdk-bookworm main\n",
    "node.sources": "Types: deb\nURIs: https://fourth.example.com/node\nSuites: nodistro\nComponents: main\n",
}
DEB822 = """\
Types: deb deb-src
# A comment in the middle of a stanza.
URIs: http://mirror.example.org/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example.org/debian-security/
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example.org/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """\
deb [arch=amd64 signed-by=/x.gpg] http://mirror.example.org/debian bookworm main non-free
deb-src http://mirror.example.org/debian bookworm main
# deb http://off.example.org/debian bookworm main
deb http://mirror.example.org/debian trixie main
"""


def apt(folder: Path, files: dict[str, str], one_line: str = "") -> Path:
    (folder / "sources.list.d").mkdir()
    for name, text in files.items():
        (folder / "sources.list.d" / name).write_text(text, encoding="utf-8")
    (folder / "sources.list").write_text(one_line, encoding="utf-8")
    return folder


def entries(text: str) -> list[str]:
    return [line.split("] ")[1] for line in text.splitlines()]


@pytest.mark.parametrize("third_parties", [{}, THIRD_PARTIES])
def test_the_machines_mirror_is_used_and_nobody_elses(tmp_path: Path, third_parties: dict[str, str]) -> None:
    found = entries(image.sources(apt(tmp_path, {"debian.sources": DEB822, **third_parties})))
    assert found == [
        "http://mirror.example.org/debian bookworm main",
        "http://mirror.example.org/debian bookworm-updates main",
        "http://mirror.example.org/debian-security/ bookworm-security main",
    ]


def test_the_one_line_style(tmp_path: Path) -> None:
    found = entries(image.sources(apt(tmp_path, THIRD_PARTIES, ONE_LINE)))
    assert found == ["http://mirror.example.org/debian bookworm main"]


def test_debians_own_where_there_is_none(tmp_path: Path) -> None:
    found = entries(image.sources(apt(tmp_path, THIRD_PARTIES)))
    assert found == ["http://deb.debian.org/debian bookworm main"]


def test_another_list_of_packages_is_another_image(tmp_path: Path) -> None:
    assert image.path(tmp_path, ["a", "b"]) == image.path(tmp_path, ["b", "a"])
    assert image.path(tmp_path, ["a", "b"]) != image.path(tmp_path, ["a"])


def test_of_labs_that_start_together_one_builds_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build(command: list[str], *, timeout: float) -> None:
        root = Path(command[-2])
        time.sleep(0.2)
        root.mkdir()  # its folder is still there
        built.append(root)

    monkeypatch.setattr(image, "run", build)
    with ThreadPoolExecutor(3) as labs:
        found = list(labs.map(lambda _: image.ensure(tmp_path, ["a"]), range(3)))

    assert found == [image.path(tmp_path, ["a"])] * 3
    assert len(built) == 1
    assert found[0].is_dir()
    assert not list(tmp_path.glob(".image-*"))
