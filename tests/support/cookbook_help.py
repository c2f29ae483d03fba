"""The cookbooks as the runner has them, and the examples in their help."""

import importlib
import re
import shlex
from typing import Any

from spicerack.cookbook import CookbookBase


def cookbook(name: str, spicerack: Any = None) -> CookbookBase:
    """Import a cookbook as the runner does; the repository has to be on the path.

    Args:
        name: its full name, such as ``sre.etcd.restart``.
        spicerack: what it is given; nothing is enough for its arguments.
    """
    module = importlib.import_module(f"cookbooks.{name}")
    (found,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, CookbookBase) and value.__module__ == module.__name__
    ]
    instance: CookbookBase = found(spicerack)
    return instance


def examples(name: str) -> list[list[str]]:
    """Return the arguments of each example in a cookbook's help, less those for the runner."""
    text = cookbook(name).argument_parser().format_help()
    found = re.findall(rf"^ *cookbook (?:--dry-run )?{re.escape(name)} (.+)$", text, re.MULTILINE)
    return [shlex.split(example) for example in found]
