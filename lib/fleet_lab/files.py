"""Files of a host, written onto its disk while it is off."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fleet_lab.errors import LabError


@dataclass(frozen=True)
class File:
    """A file on a host."""

    path: str
    """Absolute path on the host; no part of it may be a symbolic link of the base image."""
    content: str | bytes
    mode: int = 0o644
    owner: str = "root"
    """A user of the base image; the file's group is that user's."""


@dataclass(frozen=True)
class Link:
    """A symbolic link on a host."""

    path: str
    target: str


def unit_override(unit: str, text: str) -> File:
    """Return a drop-in for a systemd unit."""
    return File(f"/etc/systemd/system/{unit}.d/lab.conf", text)


class Disk:
    """A host's own layer, to be written while the host is off.

    Args:
        image: the folder of the base image.
        upper: the folder of the host's own layer.
    """

    def __init__(self, image: Path, upper: Path) -> None:
        self._image = image
        self._upper = upper
        self._users = _users(image)

    def write(self, files: Iterable[File | Link]) -> None:
        """Write files, replacing what is there.

        Raises:
            LabError: a file's owner is no user of the base image, or its path leads through a symbolic link.
        """
        for file in files:
            target = self._place(file.path)
            if isinstance(file, Link):
                target.unlink(missing_ok=True)
                target.symlink_to(file.target)
                continue
            if file.owner not in self._users:
                raise LabError(f"{file.path}: the base image has no user {file.owner}")
            target.unlink(missing_ok=True)
            content = file.content.encode() if isinstance(file.content, str) else file.content
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:  # noqa: PTH123
                stream.write(content)
            os.chown(target, *self._users[file.owner])
            target.chmod(file.mode)

    def _place(self, path: str) -> Path:
        """Return where a file goes; make its folders as they are in the base image, as these hide those."""
        parts = Path(path).relative_to("/").parts
        lower, upper = self._image, self._upper
        for part in parts[:-1]:
            lower, upper = lower / part, upper / part
            if lower.is_symlink():
                raise LabError(f"{path}: /{lower.relative_to(self._image)} is a symbolic link in the base image")
            if upper.is_dir():
                continue
            upper.mkdir()
            if lower.is_dir():
                like = lower.stat()
                os.chown(upper, like.st_uid, like.st_gid)
                upper.chmod(stat.S_IMODE(like.st_mode))
            else:
                upper.chmod(0o755)
        return upper / parts[-1]


def _users(image: Path) -> dict[str, tuple[int, int]]:
    lines = (image / "etc" / "passwd").read_text(encoding="utf-8").splitlines()
    fields = [line.split(":") for line in lines]
    return {entry[0]: (int(entry[2]), int(entry[3])) for entry in fields}
