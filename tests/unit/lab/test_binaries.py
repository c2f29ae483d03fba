"""Where the Kubernetes binaries come from: directory, tarball, PATH, cache, release, source."""

import hashlib
import http.server
import io
import platform
import tarfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fleet_lab import binaries, kubernetes_build

NAMES = binaries.CONTROL_PLANE


def make_tarball(path: Path, names: Sequence[str], prefix: str = "kubernetes/server/bin") -> None:
    mode = "w:gz" if path.suffix == ".gz" else "w:xz"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name in [*names, "kube-proxy"]:
            content = f"#!/bin/sh\necho {name}\n".encode()
            member = tarfile.TarInfo(f"{prefix}/{name}")
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))


def make_directory(directory: Path, names: Sequence[str] = NAMES) -> Path:
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    return directory


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No binaries on this machine, no release server, no build."""
    monkeypatch.delenv("FLEET_KUBERNETES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty-path"))
    monkeypatch.setenv("FLEET_KUBERNETES_URL", "http://127.0.0.1:9")  # the discard port: refused

    def refuse(destination: Path, names: Sequence[str]) -> None:
        raise kubernetes_build.BuildError("it needs Debian 12")

    monkeypatch.setattr(kubernetes_build, "build_from_source", refuse)


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server of releases, as the official one lays them out; yields the tarball's path."""
    root = tmp_path / "releases"
    tarball = root / binaries.KUBERNETES_VERSION / "kubernetes-server-linux-amd64.tar.gz"
    tarball.parent.mkdir(parents=True)
    make_tarball(tarball, NAMES)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(root))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("FLEET_KUBERNETES_URL", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield tarball
        server.shutdown()
        thread.join()


def publish(tarball: Path, algorithm: str, digest: str | None = None) -> str:
    digest = digest or hashlib.new(algorithm, tarball.read_bytes()).hexdigest()
    tarball.with_name(f"{tarball.name}.{algorithm}").write_text(f"{digest}\n")
    return digest


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("algorithm", ["sha512", "sha256"])
def test_release_is_downloaded_once(releases: Path, tmp_path: Path, algorithm: str) -> None:
    publish(releases, algorithm)
    found = binaries.find(cache=tmp_path / "cache")
    assert found["kube-apiserver"].read_text().endswith("echo kube-apiserver\n")
    assert found["kube-apiserver"].stat().st_mode & 0o111
    assert sorted(path.name for path in files(tmp_path / "cache")) == sorted([".lock", *NAMES])
    releases.unlink()
    assert binaries.find(cache=tmp_path / "cache") == found


def test_wrong_checksum_names_both_sums_and_leaves_nothing(releases: Path, tmp_path: Path) -> None:
    right = hashlib.sha512(releases.read_bytes()).hexdigest()
    wrong = publish(releases, "sha512", "0" * 128)
    with pytest.raises(binaries.BinariesError) as error:
        binaries.find(cache=tmp_path / "cache")
    assert right in str(error.value)
    assert wrong in str(error.value)
    assert [path.name for path in files(tmp_path / "cache")] == [".lock"]


def test_release_without_checksum_is_not_used(releases: Path, tmp_path: Path) -> None:
    with pytest.raises(binaries.BinariesError, match="no checksum"):
        binaries.find(cache=tmp_path / "cache")
    assert [path.name for path in files(tmp_path / "cache")] == [".lock"]


def test_truncated_release_is_not_used(releases: Path, tmp_path: Path) -> None:
    publish(releases, "sha512")
    releases.write_bytes(releases.read_bytes()[:-10])
    with pytest.raises(binaries.BinariesError, match="sha512 should be"):
        binaries.find(cache=tmp_path / "cache")


def test_directory_from_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_directory(tmp_path / "bin")
    monkeypatch.setenv("FLEET_KUBERNETES", str(directory))
    assert binaries.find(cache=tmp_path / "cache") == {name: directory / name for name in NAMES}


@pytest.mark.parametrize("suffix", ["gz", "xz"])
def test_tarball_from_environment_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    tarball = tmp_path / f"k.tar.{suffix}"
    make_tarball(tarball, NAMES, prefix="kubernetes-1.20.2-linux-amd64")
    monkeypatch.setenv("FLEET_KUBERNETES", str(tarball))
    found = binaries.find(cache=tmp_path / "cache")
    before = found["kube-scheduler"].stat().st_mtime_ns
    assert binaries.find(cache=tmp_path / "cache")["kube-scheduler"].stat().st_mtime_ns == before


def test_unusable_environment_is_an_error_although_path_has_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(make_directory(tmp_path / "bin")))
    empty, text, lacking = tmp_path / "empty", tmp_path / "text", tmp_path / "lacking.tar.gz"
    empty.mkdir()
    text.write_text("no tarball")
    make_tarball(lacking, NAMES[:1])
    for given, message in [
        (tmp_path / "absent", "cannot be read"),
        (empty, "does not have all of"),
        (text, "neither a directory nor a tarball"),
        (lacking, "does not have all of"),
    ]:
        monkeypatch.setenv("FLEET_KUBERNETES", str(given))
        with pytest.raises(binaries.BinariesError, match=message):
            binaries.find(cache=tmp_path / "cache")


def test_path_is_used_only_if_it_has_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(make_directory(tmp_path / "bin", NAMES[:2])))
    cached = make_directory(tmp_path / "cache" / "kubernetes" / binaries.KUBERNETES_VERSION)
    assert binaries.find(cache=tmp_path / "cache")["kube-apiserver"].parent == cached
    assert binaries.find(NAMES[:2], cache=tmp_path / "cache")["kube-apiserver"].parent == tmp_path / "bin"


def test_source_is_built_when_there_is_no_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(destination: Path, names: Sequence[str]) -> None:
        make_directory(destination, names)

    monkeypatch.setattr(kubernetes_build, "build_from_source", build)
    found = binaries.find(cache=tmp_path / "cache")
    assert found["kube-apiserver"].parent.name == f"source-{kubernetes_build.VERSION}"


def test_error_names_everything_that_was_tried(tmp_path: Path) -> None:
    with pytest.raises(binaries.BinariesError) as error:
        binaries.find(cache=tmp_path / "cache")
    for part in ("FLEET_KUBERNETES", "the official release", "127.0.0.1:9", "Debian 12"):
        assert part in str(error.value)


def test_processes_share_one_download(releases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(releases, "sha512")
    downloads = []
    fetch = binaries._fetch

    def count(url: str, target: Path, algorithm: str) -> str:
        downloads.append(url)
        return fetch(url, target, algorithm)

    monkeypatch.setattr(binaries, "_fetch", count)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: binaries.find(cache=tmp_path / "cache"), range(4)))
    assert found == [found[0]] * 4
    assert len(downloads) == 1


def test_what_is_there_does_not_wait_for_what_somebody_else_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = tmp_path / "k.tar.gz"
    make_tarball(tarball, NAMES)
    cache = tmp_path / "cache"
    make_directory(cache / "kubernetes" / binaries.KUBERNETES_VERSION)
    monkeypatch.setenv("FLEET_KUBERNETES", str(tarball))
    unpacked = binaries.find(cache=cache)
    with ThreadPoolExecutor(2) as pool, binaries._alone(cache):
        assert pool.submit(binaries.find, cache=cache).result(timeout=30) == unpacked
        monkeypatch.delenv("FLEET_KUBERNETES")
        assert pool.submit(binaries.find, cache=cache).result(timeout=30) != unpacked


def test_what_a_killed_process_left_is_cleared_away(releases: Path, tmp_path: Path) -> None:
    publish(releases, "sha512")
    left = tmp_path / "cache" / "kubernetes" / f"{kubernetes_build.WORKSPACE}x"
    left.mkdir(parents=True)
    binaries.find(cache=tmp_path / "cache")
    assert not left.exists()


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(binaries.BinariesError, match="cannot be written"):
        binaries.find(cache=tmp_path / "file")
