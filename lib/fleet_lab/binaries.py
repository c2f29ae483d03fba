"""Finds the Kubernetes control-plane binaries that the lab and the tests run.

In this order: ``$FLEET_KUBERNETES`` (a directory or a tarball), ``PATH``, the cache, the official release, a build from
the distribution's source package. What was unpacked, downloaded or built stays in the cache.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import requests

from fleet.errors import FleetError
from fleet_lab import kubernetes_build

CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
"""What a control plane consists of, etcd aside."""

KUBERNETES_VERSION = "v1.20.15"
"""The release that is downloaded: the last one of the minor version that the lab is developed against."""

DEFAULT_URL = "https://dl.k8s.io"
"""Where releases come from, unless ``$FLEET_KUBERNETES_URL`` names a mirror of it."""

_TIMEOUT = (10.0, 60.0)  # seconds: to connect, and between two chunks
_CHUNK = 1 << 20
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

logger = logging.getLogger(__name__)


class BinariesError(FleetError):
    """The binaries cannot be had; the text says where they were looked for."""


class _NotAvailableError(Exception):
    """This source has nothing; the next one may."""


def default_cache() -> Path:
    """Return the cache: ``/var/cache/fleet-lab`` for root, a folder of the user's own cache otherwise."""
    if os.geteuid() == 0:
        return Path("/var/cache/fleet-lab")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fleet-lab"


def find(names: Sequence[str] = CONTROL_PLANE, *, cache: Path | None = None) -> dict[str, Path]:
    """Return the path of every binary, fetching or building them if need be.

    All of them come from the same place, so that their versions agree. A download takes a minute or so, a build from
    source some seven minutes on two cores.

    Args:
        names: what to look for, such as ``kube-apiserver``.
        cache: where to keep what was fetched; :func:`default_cache` unless given.

    Raises:
        BinariesError: ``$FLEET_KUBERNETES`` is set and unusable, a download's checksum is wrong, or no source has them.
    """
    cache = cache or default_cache()
    given = os.environ.get("FLEET_KUBERNETES")
    if given:
        return _from_environment(Path(given), names, cache)
    on_path = {name: Path(found) for name in names if (found := shutil.which(name))}
    if len(on_path) == len(names):
        return on_path

    release = cache / "kubernetes" / KUBERNETES_VERSION
    built = cache / "kubernetes" / f"source-{kubernetes_build.VERSION}"
    # Each file is there whole or not at all: what is complete need not wait for somebody else's download or build.
    if cached := _in_directory(release, names) or _in_directory(built, names):
        return cached
    with _alone(cache):
        return _in_directory(release, names) or _in_directory(built, names) or _make(release, built, names)


def _make(release: Path, built: Path, names: Sequence[str]) -> dict[str, Path]:
    """Download the binaries, or build them."""
    tried = []
    try:
        _download(release, names)
        return _in_directory(release, names) or _incomplete(release, names)
    except _NotAvailableError as error:
        tried.append(f"the official release: {error}")
        logger.info("No official release (%s), building from source instead", error)
    try:
        kubernetes_build.build_from_source(built, names)
        return _in_directory(built, names) or _incomplete(built, names)
    except kubernetes_build.BuildError as error:
        tried.append(f"a build from source: {error}")
    raise BinariesError(
        f"Cannot find {', '.join(names)}. Set FLEET_KUBERNETES to a directory or tarball that has them. "
        f"Looked in PATH, in {release.parent}, and tried {'; and '.join(tried)}"
    )


def _from_environment(given: Path, names: Sequence[str], cache: Path) -> dict[str, Path]:
    """Use what ``$FLEET_KUBERNETES`` names, and nothing else: an operator who sets it means it."""
    if given.is_dir():
        return _in_directory(given, names) or _incomplete(given, names)
    try:
        status = given.stat()
    except OSError as error:
        raise BinariesError(f"FLEET_KUBERNETES={given} cannot be read: {error.strerror}") from error
    identity = f"{given.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    unpacked = cache / "kubernetes" / f"tarball-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if found := _in_directory(unpacked, names):
        return found
    try:
        with _alone(cache):
            if found := _in_directory(unpacked, names):
                return found
            _unpack(given, unpacked, names)
    except (tarfile.TarError, EOFError) as error:
        raise BinariesError(f"FLEET_KUBERNETES={given} is neither a directory nor a tarball: {error}") from error
    return _in_directory(unpacked, names) or _incomplete(given, names)


def _in_directory(directory: Path, names: Sequence[str]) -> dict[str, Path] | None:
    """Return the binaries if the directory has all of them."""
    paths = {name: directory / name for name in names}
    if all(path.is_file() and os.access(path, os.X_OK) for path in paths.values()):
        return paths
    return None


def _incomplete(where: Path, names: Sequence[str]) -> dict[str, Path]:
    raise BinariesError(f"{where} does not have all of {', '.join(names)} as executable files")


def _unpack(tarball: Path, destination: Path, names: Sequence[str]) -> None:
    """Unpack the binaries of a tarball, wherever in it they are; each appears in its place whole or not at all."""
    with _workspace(destination) as workspace, tarfile.open(tarball) as archive:
        for member in archive:
            name = Path(member.name).name
            source = archive.extractfile(member) if member.isfile() and name in names else None
            if source is None:
                continue
            unpacked = Path(workspace) / name
            with source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
            unpacked.chmod(0o755)
            unpacked.replace(destination / name)


def _download(destination: Path, names: Sequence[str]) -> None:
    """Download the release, verify its checksum and unpack it.

    Raises:
        _NotAvailableError: the server cannot be reached, or has no such release.
        BinariesError: what came has another checksum than the server says.
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise _NotAvailableError(f"there is none for {platform.machine()}")
    base = os.environ.get("FLEET_KUBERNETES_URL") or DEFAULT_URL
    url = f"{base.rstrip('/')}/{KUBERNETES_VERSION}/kubernetes-server-linux-{architecture}.tar.gz"
    try:
        algorithm, expected = _published_checksum(url)
        logger.info("Downloading %s", url)
        with _workspace(destination) as workspace:
            tarball = Path(workspace) / "release.tar.gz"
            actual = _fetch(url, tarball, algorithm)
            if actual != expected:
                raise BinariesError(
                    f"{url} was not used: its {algorithm} should be {expected} and is {actual}. "
                    f"Try again, or set FLEET_KUBERNETES to a copy that you trust."
                )
            _unpack(tarball, destination, names)
    except requests.RequestException as error:
        raise _NotAvailableError(f"{url}: {error}") from error


def _published_checksum(url: str) -> tuple[str, str]:
    """Return the algorithm and the hexadecimal digest that the server publishes beside a release."""
    for algorithm in ("sha512", "sha256"):
        answer = requests.get(f"{url}.{algorithm}", timeout=_TIMEOUT)
        if answer.status_code == requests.codes.not_found:
            continue
        answer.raise_for_status()
        words = answer.text.split()  # the digest, in some releases followed by the file's name
        if words and len(words[0]) == hashlib.new(algorithm).digest_size * 2:
            return algorithm, words[0].lower()
    raise _NotAvailableError(f"{url} has no checksum beside it")


def _fetch(url: str, target: Path, algorithm: str) -> str:
    """Write what the server sends to a file and return its digest."""
    digest = hashlib.new(algorithm)
    with requests.get(url, timeout=_TIMEOUT, stream=True) as answer, target.open("wb") as file:
        answer.raise_for_status()
        for chunk in answer.iter_content(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Keep other processes from filling the same cache, and clear away what one that was killed has left there."""
    directory = cache / "kubernetes"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except OSError as error:
        raise BinariesError(f"The cache {directory} cannot be written: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for abandoned in directory.glob(f"{kubernetes_build.WORKSPACE}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        yield


def _workspace(destination: Path) -> "tempfile.TemporaryDirectory[str]":
    """Return a temporary directory on the file system of the destination, which is created."""
    destination.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=kubernetes_build.WORKSPACE, dir=destination.parent)
