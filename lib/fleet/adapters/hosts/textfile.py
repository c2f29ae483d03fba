"""Small text files on hosts: read as they are, changed only from what they were, put back exactly.

What is sent and received is Base64, so that no shell or login message mangles it.
"""

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import FleetError
from fleet.execution import TIMEOUT, Result, Runner, Unreachable, failures

LARGEST = 65536
"""Bytes that a file may have to be written; Linux takes 128 KiB for a word of a command, in Base64."""

WRITE_TIMEOUT = 30.0
"""Seconds for writing a file and its backup to the disk."""

_LINE = re.compile(r"^fleet-file=(absent|[A-Za-z0-9+/=]*)$", re.MULTILINE)


class TextFileError(FleetError):
    """A file on a host could not be changed, or is not what it was taken for."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file as it is."""

    text: str

    @property
    def sha256(self) -> str:
        """The checksum of its bytes, in hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such file."""

    @property
    def reason(self) -> str:
        """Why there is nothing to read, in a line."""
        return "there is no such file"


def read(remote: Runner, hosts: Sequence[str], path: Path) -> dict[str, TextFile | Missing | Unreachable]:
    """Read a file on hosts, all at the same time; nothing is changed, in a dry-run as well.

    Args:
        remote: runs the command.
        hosts: their names, as Cumin knows them.
        path: the file.

    Returns:
        By the host's name; :class:`fleet.execution.Unreachable` also stands for a file that cannot be read, or is no
        text in UTF-8.

    Raises:
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    file = shlex.quote(str(path))
    command = f"""\
if [ -e {file} ] || [ -L {file} ]; then
    content=$(base64 --wrap=0 -- {file}) && echo "fleet-file=$content"
else
    echo fleet-file=absent
fi
"""
    results = remote.run(hosts, command, timeout=TIMEOUT, safe=True)
    return {host: parse(host, result) for host, result in results.items()}


def parse(host: str, result: Result) -> TextFile | Missing | Unreachable:
    """Read the answer of a host.

    Args:
        host: its name.
        result: what came of the command that :func:`read` runs.
    """
    if result.exit_code is None:
        return Unreachable(result.output)
    found = _LINE.findall(result.output)
    if result.exit_code or not found:
        return Unreachable(failures({host: result}).get(host) or "its answer is cut off")
    if found[-1] == "absent":
        return Missing()
    try:
        return TextFile(base64.b64decode(found[-1], validate=True).decode())
    except ValueError:
        return Unreachable("the file is no text in UTF-8")


def replace(remote: Runner, host: str, path: Path, *, before: str, content: str, backup: Path) -> None:
    """Change a file, if it is still what it was, and keep what it was.

    Its owner and mode stay. The backup has them too; it is written first, and one that is there already is never
    overwritten. The file is replaced as a whole: whoever reads it finds the one or the other, after a power failure as
    well. It may be asked for again: one that has the new content already is left as it is.

    Two calls for files of the same folder do not get in each other's way. Somebody else, such as Puppet, who writes the
    file between the comparison and the replacement (some milliseconds) is overwritten.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        host: its name.
        path: the file; not a symbolic link.
        before: the checksum of what it has to be, see :attr:`TextFile.sha256`.
        content: what it becomes.
        backup: where what it was is kept; its folder is made, readable by its owner alone.

    Raises:
        TextFileError: it is another one by now, another backup is there, or it could not be written.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    data = content.encode()
    if len(data) > LARGEST:
        raise TextFileError(f"{path} is not written on {host}: it would have more than {LARGEST} bytes.")
    command = f"""\
{_prologue(path, backup)}
before={shlex.quote(before)} after={hashlib.sha256(data).hexdigest()}
[ -f "$file" ] && [ ! -L "$file" ] || fail "it is no file"
now=$(sum "$file") || exit
[ "$now" = "$after" ] && exit 0
[ "$now" = "$before" ] || fail "it is not what it was any more: its checksum is $now now, it was $before"
if [ -e "$backup" ] || [ -L "$backup" ]; then
    cmp --quiet -- "$file" "$backup" || fail "there is another backup already: look at $backup, and move it away"
else
    mkdir --parents --mode=0700 -- "${{backup%/*}}" && copy "$file" "$backup" || exit
fi
cp --preserve=mode,ownership --remove-destination -- "$file" "$new" || exit
base64 --decode >"$new" <<'fleet-end' || exit
{base64.encodebytes(data).decode()}fleet-end
[ "$(sum "$new")" = "$after" ] || fail "it was not written as it was sent"
sync -- "$new" && mv --no-target-directory -- "$new" "$file" && sync -- "${{file%/*}}"
"""
    _run(remote, host, path, command, "changed")


def restore(remote: Runner, host: str, path: Path, backup: Path) -> None:
    """Put a file back from the backup that :func:`replace` has made, whatever it is now, and remove the backup.

    It gets its bytes, owner, mode and time. Nothing is done where there is no backup; so it may be asked for again.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        host: its name.
        path: the file.
        backup: what it was.

    Raises:
        TextFileError: it could not be written; then the backup is still there.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    command = f"""\
{_prologue(path, backup)}
[ -e "$backup" ] || exit 0
copy "$backup" "$file" && rm -- "$backup" && sync -- "${{backup%/*}}"
"""
    _run(remote, host, path, command, f"put back from {backup}")


def _prologue(path: Path, backup: Path) -> str:
    # The lock is the folder's, and goes with the shell.
    return f"""\
umask 077
file={shlex.quote(str(path))} backup={shlex.quote(str(backup))}
new=${{file%/*}}/.${{file##*/}}.fleet
trap 'rm --force -- "$new"' EXIT
fail() {{ echo "$1"; exit 1; }}
sum() {{ sha256sum <"$1" | cut --delimiter=' ' --fields=1; }}
copy() {{
    local part=${{2%/*}}/.${{2##*/}}.fleet
    cp --preserve=mode,ownership,timestamps --remove-destination -- "$1" "$part" && sync -- "$part" &&
        mv --no-target-directory -- "$part" "$2" && sync -- "${{2%/*}}"
}}
exec 9<"${{file%/*}}" && flock --wait 10 9 || fail "the folder of it is not there, or is in use"
"""


def _run(remote: Runner, host: str, path: Path, command: str, what: str) -> None:
    results = remote.run([host], command, timeout=WRITE_TIMEOUT, safe=False)
    for reason in failures(results).values():
        raise TextFileError(f"{path} on {host} could not be {what}: {reason}")
