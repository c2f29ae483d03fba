"""The base image of all hosts: Debian's packages, unpacked once and kept in the cache."""

import fcntl
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fleet_lab.command import run

RELEASE = "bookworm"
"""The Debian release of the hosts."""

_VARIANT = 1
"""To be raised when :func:`_customize` changes."""

_APT_SOURCES = Path("/etc/apt")
_DEBIAN_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEFAULT_SOURCE = f"deb [signed-by={_DEBIAN_KEYS}] http://deb.debian.org/debian {RELEASE} main\n"

_DEBIAN_URL = re.compile(r"https?://\S*/debian(?:-security)?/?(?=\s|$)")


def sources(apt: Path = _APT_SOURCES) -> str:
    """Return where packages come from: the machine's own sources of Debian's main archive, in apt's one-line style.

    Only its mirrors are taken over (third parties' packages have no place in the image), and Debian's own where it has
    none for this release.

    Args:
        apt: the folder of apt's configuration.
    """
    found = []
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        entries = _deb822(text) if path.suffix == ".sources" else _one_line(text)
        found += [f"deb [signed-by={_DEBIAN_KEYS}] {url} {suite} main\n" for url, suite in entries]
    if not any(f" {RELEASE} " in line for line in found):
        return _DEFAULT_SOURCE
    return "".join(dict.fromkeys(found))


def _wanted(url: str, suite: str) -> bool:
    return bool(_DEBIAN_URL.fullmatch(url)) and suite.split("-")[0] == RELEASE and "backports" not in suite


def _one_line(text: str) -> list[tuple[str, str]]:
    lines = [re.sub(r"\[[^]]*\]", "", line).split() for line in text.splitlines()]
    fields = [line for line in lines if len(line) >= 4 and line[0] == "deb" and "main" in line[3:]]
    return [(line[1], line[2]) for line in fields if _wanted(line[1], line[2])]


def _deb822(text: str) -> list[tuple[str, str]]:
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields = dict(re.findall(r"^([A-Za-z-]+):\s*(.*)$", "\n".join(lines), re.MULTILINE))
        enabled = fields.get("Enabled", "yes").lower() != "no"
        if enabled and "deb" in fields.get("Types", "").split() and "main" in fields.get("Components", "").split():
            found += [
                (url, suite)
                for url in fields.get("URIs", "").split()
                for suite in fields.get("Suites", "").split()
                if _wanted(url, suite)
            ]
    return found


def path(cache: Path, packages: Sequence[str]) -> Path:
    """Return where the image with these packages is kept; another list is another image."""
    key = json.dumps([RELEASE, _VARIANT, sorted(packages)])
    return cache / f"image-{RELEASE}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def ensure(cache: Path, packages: Sequence[str]) -> Path:
    """Return the image, built if it is not there: half a minute or more, over the network.

    Labs that share a cache take turns: the first builds it, the others wait for that.

    Raises:
        LabError: the build failed; with mmdebstrap's own words.
    """
    target = path(cache, packages)
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "image.lock").open("w", encoding="ascii") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not target.is_dir():
            _build(cache, target, packages)
    return target


def _build(cache: Path, target: Path, packages: Sequence[str]) -> None:
    """Build an image beside its place and rename it; what a build that was killed has left is removed."""
    for leftover in cache.glob(".image-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=".image-", dir=cache))
    (temporary / "sources.list").write_text(sources(), encoding="utf-8")
    try:
        # Mounts of the build stay in a mount namespace of its own, whatever happens to it.
        command = ["unshare", "--mount", "--propagation=private", "mmdebstrap", "--variant=minbase", "--mode=root"]
        command += [f"--include={','.join(packages)}", *_customize()]
        run([*command, RELEASE, str(temporary / "root"), str(temporary / "sources.list")], timeout=1800)
        (temporary / "root").rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _customize() -> list[str]:
    """No manuals, no package lists, and no key or identity that hosts would share."""
    excluded = ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*"]
    return [
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in excluded),
        '--customize-hook=rm -rf "$1"/etc/ssh/ssh_host_* "$1"/etc/machine-id "$1"/etc/resolv.conf',
    ]
