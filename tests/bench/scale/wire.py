"""Calls from the process that is measured to the one that simulates hosts, routers and Alertmanagers."""

import queue
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any


def serve(path: Path, calls: Mapping[str, Callable[..., Any]]) -> None:
    """Answer calls by name until the process ends; what a call raises is raised at the caller's."""

    def answer(connection: "Connection[Any, Any]") -> None:
        while True:
            try:
                name, arguments, options = connection.recv()
            except EOFError:
                return
            try:
                connection.send((True, calls[name](*arguments, **options)))
            except Exception as error:
                connection.send((False, error))

    with Listener(str(path), family="AF_UNIX", backlog=64) as listener:
        while True:
            threading.Thread(target=answer, args=(listener.accept(),), daemon=True).start()


class Wire:
    """The caller's end; may be used from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: queue.SimpleQueue[Connection[Any, Any]] = queue.SimpleQueue()

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = Client(str(self._path), family="AF_UNIX")
        connection.send((name, arguments, options))
        succeeded, answer = connection.recv()
        self._idle.put(connection)
        if not succeeded:
            raise answer
        return answer
