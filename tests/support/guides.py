"""The guides in docs/: the code that they show, written to files and imported, and the names that their prose uses."""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from support.places import REPOSITORY

PROCEDURE = REPOSITORY / "docs/write-a-procedure.md"
GATE = REPOSITORY / "docs/write-a-gate.md"
ARCHITECTURE = REPOSITORY / "docs/architecture.md"
_FENCE = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code in a guide.

    Attributes:
        path: the file that it is, or changes: the line before it names it. Empty if it is none.
        language: what stands behind its opening fence: ``diff`` changes a file that an earlier block has written.
        text: its lines.
    """

    path: str
    language: str
    text: str


def blocks(guide: str) -> list[Block]:
    """Return a guide's blocks of code, in their order."""
    return [Block(*found) for found in _FENCE.findall(guide)]


def files(*guides: str) -> dict[str, str]:
    """Return the files that guides show, after all their changes.

    Raises:
        ValueError: a block names no file, or a change does not fit.
    """
    found: dict[str, str] = {}
    for block in (block for guide in guides for block in blocks(guide)):
        if not block.path:
            raise ValueError(f"a block names no file: {block.text[:60]!r}")
        found[block.path] = _changed(found[block.path], block.text) if block.language == "diff" else block.text
    return found


def _changed(text: str, change: str) -> str:
    lines = change.splitlines(keepends=True)
    before, after = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
    if text.count(before) != 1:
        raise ValueError(f"a change fits at {text.count(before)} places: {before!r}")
    return text.replace(before, after)


def write(folder: Path, *guides: Path) -> list[Path]:
    """Write the files that guides show below a folder, and return where they are."""
    found = files(*(guide.read_text(encoding="utf-8") for guide in guides))
    paths = [folder / path for path in found]
    for path, text in zip(paths, found.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return paths


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let the packages of the library have what is below ``folder/lib/fleet`` as well; forget it in the end."""
    known = set(sys.modules)
    packages = {
        importlib.import_module(f"fleet.{path.name}"): str(path)
        for path in (folder / "lib/fleet").iterdir()
        if path.is_dir()
    }
    for package, path in packages.items():
        package.__path__.append(path)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for package, path in packages.items():
            package.__path__.remove(path)
        for name in set(sys.modules) - known:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                parent, _, child = name.rpartition(".")
                vars(sys.modules[parent]).pop(child, None)
                del sys.modules[name]


def load(path: Path) -> ModuleType:
    """Import a file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tests(module: ModuleType) -> Mapping[str, object]:
    """Return the tests of a module."""
    return {name: value for name, value in inspect.getmembers(module, inspect.isfunction) if name.startswith("test_")}


def named(guide: str) -> set[str]:
    """Return what the prose of a guide has in backticks."""
    return set(re.findall(r"`([^`\n]+)`", _FENCE.sub("", guide)))


def vocabulary(*sources: str) -> set[str]:
    """Return the names that Python sources define, and their short strings: names of steps, of options, of facts."""
    found: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            match node:
                case (
                    ast.ClassDef(name=name)
                    | ast.FunctionDef(name=name)
                    | ast.arg(arg=name)
                    | ast.keyword(arg=str(name))
                ):
                    found.add(name)
                case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                    found.add(name)
                case ast.Constant(value=str(text)) if len(text) < 40:
                    found.add(text)
    return found


def sources(*roots: str) -> dict[str, str]:
    """Return the Python files of the repository below some folders, by their dotted names."""
    return {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path.read_text(encoding="utf-8")
        for root in roots
        for path in (REPOSITORY / root).rglob("*.py")
    }


def exists(name: str, words: set[str], modules: set[str]) -> bool:
    """Return whether there is what a guide names: a file, an option, a module, a class, or an attribute.

    Args:
        name: as it stands in the guide: ``docs/rules.md``, ``--accept``, ``units.Active``, ``targets=list``.
        words: all names that there are.
        modules: the dotted names of all modules.
    """
    plain = re.sub(r"=\w+$|^\[|\]$", "", name)
    if (REPOSITORY / plain).exists() or plain in words or f"cookbooks.{plain}" in modules:
        return True
    if " " in plain:  # a command
        return all(exists(word, words, modules) for word in plain.split())
    packages = {part for module in modules for part in module.split(".")}
    return all(part in words | packages for part in plain.split("."))
