"""All objects of a cluster in a file, for whoever has to look one up when the cluster is not there any more."""

import contextlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.errors import ApiError, KubernetesError
from fleet.adapters.k8s.resources import Resource, listable

_EVENTS = "events"  # of the core group and of events.k8s.io: they are no part of what a cluster is told to be


@dataclass(frozen=True, slots=True)
class Exported:
    """What is in the file.

    Attributes:
        objects: how many there are.
        kinds: of how many kinds.
        problems: what could not be read, in sentences; nothing if all is there.
    """

    objects: int
    kinds: int
    problems: tuple[str, ...]


def export(api: Api, path: Path, *, without: Collection[str]) -> Exported:
    """Write all objects of a cluster into a file, one as JSON in each line, with its ``apiVersion`` and ``kind``.

    It holds all Secrets: only its owner can read it, from its first byte on. It has its name only once it is whole; one
    of that name that is there already is replaced. Objects are read kind by kind, so they are of slightly different
    times. Left out are events, and what is computed and not kept: ComponentStatuses, metrics.

    Args:
        api: the cluster's API.
        path: the file.
        without: namespaces whose objects are left out; the Namespaces themselves are in the file.

    Returns:
        What is in it. What another server is responsible for and cannot be asked is a problem in it, no error.

    Raises:
        KubernetesError: the API could not be asked, or the file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            exported = _write(api, file, frozenset(without))
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise KubernetesError(f"The cluster's objects cannot be written to {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return exported


def _write(api: Api, file: TextIO, without: frozenset[str]) -> Exported:
    resources, problems = listable(api)
    # A list that expires is read anew, and some objects are served by several groups: each is written once.
    written: set[str] = set()
    kinds = 0
    for resource in resources:
        if resource.name == _EVENTS:
            continue
        before = len(written)
        try:
            api.list_all(resource.path(), convert=partial(_add, file, written, without, resource))
        except ApiError as error:
            problems.append(f"{resource} cannot be listed: {error.status} {error.message}")
        kinds += len(written) > before
    return Exported(len(written), kinds, tuple(problems))


def _add(file: TextIO, written: set[str], without: frozenset[str], resource: Resource, item: JSON) -> None:
    uid = str(item["metadata"]["uid"])
    if uid in written or item["metadata"].get("namespace") in without:
        return
    written.add(uid)
    # The items of a list lack the first two.
    json.dump({"apiVersion": resource.api_version, "kind": resource.kind, **item}, file, separators=(",", ":"))
    file.write("\n")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
