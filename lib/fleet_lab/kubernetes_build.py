"""Builds Kubernetes from Debian's source package, for machines that cannot reach the official releases.

Everything the build needs is in the source package: no Go module is fetched. It takes about seven minutes on two cores
and 3 GB below the destination's parent directory while it lasts.
"""

import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fleet.errors import FleetError

VERSION = "v1.20.2"
"""What Debian 12's source package ``kubernetes`` (1.20.5+really1.20.2) really is."""

WORKSPACE = ".incomplete-"
"""What the names of working directories beside a destination begin with."""

_SUITE = "bookworm"
_GO = Path("/usr/lib/go-1.19/bin/go")
_PACKAGES = ("golang-1.19-go", "dpkg-dev")
_MODULE = "k8s.io/kubernetes"
# Modules below vendor/k8s.io that speak of OpenAPI tags without having types that this API server serves.
_NOT_SERVED = frozenset({"code-generator", "kube-openapi", "sample-apiserver"})

logger = logging.getLogger(__name__)


class BuildError(FleetError):
    """The build cannot be done here, or failed; the text says at which command."""


def build_from_source(destination: Path, names: Sequence[str]) -> None:
    """Build binaries from Debian's source package.

    The machine's own package sources are not changed; missing build tools are installed with apt.

    Args:
        destination: the directory to put them into; each appears there whole or not at all.
        names: commands of the Kubernetes tree, such as ``kube-apiserver``.

    Raises:
        BuildError: this is not Debian 12, the tools are missing and cannot be installed, or a command failed.
    """
    _require_debian()
    _require_tools()
    try:
        destination.mkdir(parents=True, exist_ok=True)
        workspace = tempfile.TemporaryDirectory(prefix=WORKSPACE, dir=destination.parent)
    except OSError as error:
        raise BuildError(f"{destination} cannot be written: {error.strerror}") from error
    with workspace as directory:
        work = Path(directory)
        tree = _fetch_source(work)
        environment = {
            **os.environ,
            "GOPATH": str(work / "go"),
            "GOCACHE": str(work / "cache"),
            "GOTMPDIR": str(work),
            "GO111MODULE": "off",  # the tree builds in GOPATH mode only
            "GOFLAGS": "",
            "CGO_ENABLED": "0",
        }
        _generate_openapi(tree, work, environment)
        for name in names:
            logger.info("Building %s %s", name, VERSION)
            built = work / name
            _run(
                [str(_GO), "build", "-ldflags", _stamp(), "-o", str(built), f"{_MODULE}/cmd/{name}"], tree, environment
            )
            built.replace(destination / name)


def _stamp() -> str:
    """Return the linker's flags: no debug symbols, and the version, which clients compare with their own."""
    major, minor, _ = VERSION.removeprefix("v").split(".")
    values = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor}
    packages = ("component-base/version", "client-go/pkg/version")
    stamps = (
        f"-X {_MODULE}/vendor/k8s.io/{package}.{key}={value}" for package in packages for key, value in values.items()
    )
    return " ".join(("-s -w", *stamps))


def _require_debian() -> None:
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    if release.get("VERSION_CODENAME") != _SUITE:
        raise BuildError(f"it needs Debian 12 ({_SUITE}), this is {release.get('PRETTY_NAME', platform.system())}")


def _require_tools() -> None:
    if _GO.exists() and shutil.which("dpkg-source"):
        return
    if os.geteuid() != 0:
        raise BuildError(f"it needs build tools: run apt-get install {' '.join(_PACKAGES)} as root")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _run(["apt-get", "update", "-q"], Path("/"), environment)
    _run(["apt-get", "install", "-qy", "--no-install-recommends", *_PACKAGES], Path("/"), environment)


def _fetch_source(work: Path) -> Path:
    """Fetch and unpack the source package, with package lists of its own, and return the tree in its Go path."""
    sources, lists = work / "sources.list", work / "lists"
    uri = next(_archives(), "http://deb.debian.org/debian")
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources.write_text(f"deb-src [signed-by={keyring}] {uri} {_SUITE} main\n", encoding="utf-8")
    (lists / "partial").mkdir(parents=True)
    options = [
        f"-oDir::Etc::sourcelist={sources}",
        "-oDir::Etc::sourceparts=/dev/null",
        f"-oDir::State::lists={lists}",
        f"-oDir::Cache::srcpkgcache={work / 'srcpkgcache.bin'}",
        f"-oDir::Cache::pkgcache={work / 'pkgcache.bin'}",
        "-oAPT::Sandbox::User=",  # the workspace is private; apt's own user could not write there
    ]
    logger.info("Fetching the source package kubernetes from %s", uri)
    _run(["apt-get", *options, "update", "-q"], work, os.environ)
    _run(["apt-get", *options, "source", "-q", "--download-only", "kubernetes"], work, os.environ)
    description = next(work.glob("kubernetes_*.dsc"), None)
    if description is None:
        raise BuildError(f"{uri} has no source package kubernetes")
    tree = work / "go" / "src" / "k8s.io" / "kubernetes"
    tree.parent.mkdir(parents=True)
    _run(["dpkg-source", "-x", description.name, str(tree)], work, os.environ)
    return tree


def _archives() -> Iterator[str]:
    """Return the Debian archives that this machine uses for the suite, mirrors included."""
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in listing.splitlines():
        codename, _, uri = line.partition(" ")
        if codename == _SUITE and "debian" in uri:
            yield uri


def _generate_openapi(tree: Path, work: Path, environment: Mapping[str, str]) -> None:
    """Generate the one file that the source package lacks."""
    generator = work / "openapi-gen"
    _run([str(_GO), "build", "-o", str(generator), "./vendor/k8s.io/kube-openapi/cmd/openapi-gen"], tree, environment)
    vendor = tree / "vendor" / "k8s.io"
    packages = {
        f"{_MODULE}/{file.parent.relative_to(tree)}"
        for root in vendor.iterdir()  # symbolic links, which rglob alone would not follow
        if root.name not in _NOT_SERVED
        for file in root.rglob("*.go")
        if "+k8s:openapi-gen=" in file.read_text(encoding="utf-8", errors="replace")
    }
    command = [
        *(str(generator), "-i", ",".join(sorted(packages))),
        *("-p", f"{_MODULE}/pkg/generated/openapi", "-O", "zz_generated.openapi"),
        *("-h", "hack/boilerplate/boilerplate.generatego.txt", "-r", str(work / "report")),
    ]
    _run(command, tree, {**environment, "PATH": f"{_GO.parent}:{environment['PATH']}"})


def _run(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
    """Run a command; its output is shown only if it fails."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        shown = " ".join(command)[:200]
        raise BuildError(f"`{shown}` ended with exit code {done.returncode}:\n{done.stdout.strip()[-2000:]}")
