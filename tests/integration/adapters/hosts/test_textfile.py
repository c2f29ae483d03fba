"""Files on hosts, with the real bash and coreutils, each "host" a folder here."""

import os
import stat
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.adapters.hosts import remote, textfile
from fleet.adapters.hosts.textfile import Missing, TextFile, TextFileError
from fleet.execution import Result, Unreachable

OLD, NEW = 'DAEMON_ARGS="--a \\\n --b"\n', "it's $(new) `\\ \n\n"
TEXT = st.text(st.characters(codec="utf-8"), max_size=200)


class Here:
    """A Runner: commands run here, each in a folder of its host's name."""

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self.folder = folder
        self.prefix = prefix  # runs before each command
        self.orders = 0

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        self.orders += not safe
        return {host: self._run(self.folder / host, command, timeout) for host in hosts}

    def _run(self, folder: Path, command: str, timeout: float) -> Result:
        marked = f"echo Welcome; {remote.mark(self.prefix + command)}; echo Bye"
        done = subprocess.run(
            ["sh", "-c", marked], cwd=folder, stdout=subprocess.PIPE, text=True, timeout=timeout, check=False
        )
        return remote.parse(done.stdout, timeout=None)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    (tmp_path / "h1" / "it's etc").mkdir(parents=True)
    (tmp_path / "h2").mkdir()
    (tmp_path / "h1" / "it's etc" / "kube").write_text(OLD)
    (tmp_path / "h1" / "it's etc" / "kube").chmod(0o640)
    return Here(tmp_path)


PATH, BACKUP = Path("it's etc/kube"), Path("backups of it/kube.before")


def swap(here: Here, *, before: str = OLD, content: str = NEW) -> None:
    checksum = TextFile(before).sha256
    textfile.replace(here, "h1", PATH, before=checksum, content=content, backup=BACKUP)


def files(here: Here) -> dict[str, str]:
    folder = here.folder / "h1"
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_read_and_a_missing_one_is_no_empty_one(here: Here) -> None:
    (here.folder / "h2" / "it's etc").mkdir()
    (here.folder / "h2" / PATH).touch()
    (here.folder / "h3").mkdir()
    found = textfile.read(here, ["h1", "h2", "h3"], PATH)
    assert found == {"h1": TextFile(OLD), "h2": TextFile(""), "h3": Missing()}
    checksum = subprocess.run(["sha256sum", here.folder / "h1" / PATH], capture_output=True, text=True, check=True)
    assert isinstance(found["h1"], TextFile)
    assert checksum.stdout.startswith(found["h1"].sha256)
    assert here.orders == 0


def test_what_cannot_be_read_is_no_file(here: Here) -> None:
    path = here.folder / "h1" / PATH
    path.write_bytes(b"\xff")
    assert textfile.read(here, ["h1"], PATH) == {"h1": Unreachable("the file is no text in UTF-8")}
    path.unlink()
    path.mkdir()
    (answer,) = textfile.read(here, ["h1"], PATH).values()
    assert isinstance(answer, Unreachable)
    assert "Is a directory" in answer.reason
    path.rmdir()
    path.symlink_to("nowhere")
    (answer,) = textfile.read(here, ["h1"], PATH).values()
    assert isinstance(answer, Unreachable)
    assert textfile.parse("h1", Result(None, "no answer within 15 s")) == Unreachable("no answer within 15 s")
    assert textfile.parse("h1", Result(0, "Welcome")) == Unreachable("its answer is cut off")


def test_it_is_changed_once_and_put_back_exactly(here: Here) -> None:
    path, backup = here.folder / "h1" / PATH, here.folder / "h1" / BACKUP
    os.chown(path, 1234, 4321)
    os.utime(path, (1_000_000, 1_000_000))

    swap(here)

    assert files(here) == {str(PATH): NEW, str(BACKUP): OLD}
    for each in (path, backup):
        found = each.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1234, 4321)
    assert stat.S_IMODE(backup.parent.stat().st_mode) == 0o700
    inode = path.stat().st_ino
    swap(here)
    assert path.stat().st_ino == inode

    path.write_text("Puppet's\n")
    textfile.restore(here, "h1", PATH, BACKUP)

    assert files(here) == {str(PATH): OLD}
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1234, 4321)
    assert found.st_mtime == 1_000_000
    path.write_text("somebody's\n")
    textfile.restore(here, "h1", PATH, BACKUP)
    assert files(here) == {str(PATH): "somebody's\n"}


def test_a_file_that_was_changed_meanwhile_is_left_alone(here: Here) -> None:
    with pytest.raises(
        TextFileError, match=r"kube on h1 could not be changed: it is not what it was any more"
    ) as error:
        swap(here, before="another")
    assert TextFile(OLD).sha256 in str(error.value)
    assert files(here) == {str(PATH): OLD}


def test_a_backup_is_never_overwritten_by_another_one(here: Here) -> None:
    backup = here.folder / "h1" / BACKUP
    backup.parent.mkdir()
    backup.write_text("another run's")
    with pytest.raises(TextFileError, match="there is another backup already"):
        swap(here)
    assert files(here) == {str(PATH): OLD, str(BACKUP): "another run's"}
    backup.write_text(OLD)
    swap(here)
    assert files(here) == {str(PATH): NEW, str(BACKUP): OLD}


@pytest.mark.parametrize("what", ["link", "folder", "nothing"])
def test_what_is_no_file_is_left_alone(here: Here, what: str) -> None:
    path = here.folder / "h1" / PATH
    path.unlink()
    if what == "link":
        (here.folder / "h1" / "target").write_text(OLD)
        path.symlink_to("../target")
    elif what == "folder":
        path.mkdir()
    with pytest.raises(TextFileError, match="it is no file"):
        swap(here)
    assert set(files(here)) <= {"target", str(PATH)}
    assert path.is_symlink() == (what == "link")


def test_a_folder_that_is_not_there_and_a_file_that_is_too_large_are_said(here: Here) -> None:
    with pytest.raises(TextFileError, match="the folder of it is not there"):
        textfile.replace(here, "h2", PATH, before="", content="", backup=BACKUP)
    with pytest.raises(TextFileError, match="more than 65536 bytes"):
        swap(here, content="x" * 65537)
    swap(here, content="x" * 65536)
    assert files(here)[str(PATH)] == "x" * 65536


USES = {"mkdir": 1, "cp": 2, "sync": 4, "mv": 2, "base64": 1}


@pytest.mark.parametrize(("program", "number"), [(name, each) for name, uses in USES.items() for each in range(uses)])
def test_a_crash_at_any_point_leaves_a_whole_file_and_it_can_be_asked_for_again(here: Here, program, number) -> None:
    here.prefix = f'count=0; {program}() {{ [ $((count++)) = {number} ] && kill -KILL $$; command {program} "$@"; }};'
    with pytest.raises(TextFileError):
        swap(here)
    now = files(here)
    assert now[str(PATH)] in (OLD, NEW)
    assert now[str(PATH)] == OLD or now[str(BACKUP)] == OLD
    here.prefix = ""
    swap(here)
    assert {name: text for name, text in files(here).items() if ".fleet" not in name} == {
        str(PATH): NEW,
        str(BACKUP): OLD,
    }
    textfile.restore(here, "h1", PATH, BACKUP)
    assert files(here) == {str(PATH): OLD}


def test_of_two_at_the_same_time_one_wins_and_nothing_is_mixed(here: Here) -> None:
    def try_to(content: str) -> bool:
        try:
            swap(here, content=content)
        except TextFileError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(try_to, [f"{number}\n" for number in range(8)]))
    assert won.count(True) == 1
    assert files(here) == {str(PATH): f"{won.index(True)}\n", str(BACKUP): OLD}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=TEXT, after=TEXT)
def test_any_text_arrives_as_it_was_sent_and_comes_back(here: Here, before: str, after: str) -> None:
    path = here.folder / "h1" / PATH
    path.write_bytes(before.encode())
    swap(here, before=before, content=after)
    assert path.read_bytes() == after.encode()
    assert textfile.read(here, ["h1"], PATH) == {"h1": TextFile(after)}
    textfile.restore(here, "h1", PATH, BACKUP)
    assert path.read_bytes() == (before if before != after else after).encode()
    assert not (here.folder / "h1" / BACKUP).exists()
