"""The documents: their links lead somewhere, and what runs tests elsewhere runs the same ones."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mutants.table import MUTANTS
from support.places import REPOSITORY

NOT_OURS = (".venv", "build", "node_modules")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*?) *#*$", re.MULTILINE)


def documents() -> list[Path]:
    """Return all Markdown files of the repository."""
    found = (path.relative_to(REPOSITORY) for path in REPOSITORY.rglob("*.md"))
    return sorted(path for path in found if path.parts[0] not in NOT_OURS and not path.parts[0].endswith("_cache"))


def prose(text: str) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the names of a document's headings as GitHub makes them; one that comes again has a number."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = base = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.add(name)
    return found


def broken(document: Path, text: str) -> Iterator[str]:
    """Return the relative links of a document that lead nowhere."""
    without_code = re.sub(r"`[^`\n]*`", "", prose(text))
    for link in LINK.findall(without_code):
        if re.match(r"[a-z]+:", link):
            continue  # another site's
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        if not target.exists():
            yield f"{link}: there is no such file"
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            yield f"{link}: there is no such heading"


def test_all_documents_are_found() -> None:
    assert {Path("README.md"), Path("SECURITY.md"), Path("runbooks/reboot-nodes.md")} <= set(documents())


@pytest.mark.parametrize("document", documents(), ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    assert list(broken(REPOSITORY / document, (REPOSITORY / document).read_text(encoding="utf-8"))) == []


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One thing\n## It's `this`\n", encoding="utf-8")
    text = (
        "[a](other.md) [b](other.md#one-thing) [c](other.md#its-this) [d](https://x.example) `[e](none)` [f](#top)\n"
        "```\n[g](none.md)\n```\n[h](gone.md) [i](other.md#gone)\n# Top\n"
    )
    (tmp_path / "this.md").write_text(text, encoding="utf-8")
    assert [line.partition(":")[0] for line in broken(tmp_path / "this.md", text)] == ["gone.md", "other.md#gone"]


def targets() -> set[str]:
    """Return the targets of the Makefile."""
    return set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def needs(target: str) -> list[str]:
    """Return what a target of the Makefile needs."""
    found = re.search(rf"^{target}: *(.*)$", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"the Makefile has no target {target}"
    return found[1].split()


def test_the_workflow_runs_what_make_test_runs() -> None:
    workflow: Any = yaml.safe_load((REPOSITORY / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    run = {*jobs["test"]["strategy"]["matrix"]["target"]}
    run |= {match for step in jobs["lab"]["steps"] for match in re.findall(r"\bmake ([a-z]+)$", step.get("run", ""))}
    assert run == set(needs("test"))
    assert run <= targets()


def test_a_commit_is_checked_as_make_lint_checks_it() -> None:
    config: Any = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    entries = [hook["entry"] for hook in config["repos"][0]["hooks"]]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe
    commands = re.findall(r"^\t@(?:PYTHONPATH=lib )?\$\(BIN\)/(.*)$", recipe[1], re.MULTILINE)
    tidy = [re.sub(r" -q| \.$", "", command) for command in commands]
    assert sorted(entry.partition(".venv/bin/")[2] for entry in entries) == sorted(tidy)


RULES = (REPOSITORY / "docs/rules.md").read_text(encoding="utf-8")


def rules() -> dict[str, dict[str, list[str]]]:
    """Return the tests that each rule names, by its heading and by ``Tests`` and ``Mutants``."""
    found: dict[str, dict[str, list[str]]] = {}
    for section in re.split(r"^## ", RULES, flags=re.MULTILINE)[1:]:
        title, _, rest = section.partition("\n")
        lists = re.split(r"^(Tests|Mutants):\n", rest, flags=re.MULTILINE)[1:]
        named = [re.findall(r"^\* `(tests/[^`]+)`$", text, re.MULTILINE) for text in lists[1::2]]
        found[title] = dict(zip(lists[::2], named, strict=True))
    return found


def exists(test: str) -> bool:
    """Return whether there is a test of a node id: a file, or a function of it, or of a class in it."""
    path, *names = test.split("::")
    if not (REPOSITORY / path).is_file():
        return False
    body: list[ast.stmt] = ast.parse((REPOSITORY / path).read_text(encoding="utf-8")).body
    for name in names:
        known = {node.name: node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        if name not in known:
            return False
        body = known[name].body
    return True


def test_each_rule_names_what_proves_it() -> None:
    assert [title.partition(".")[0] for title in rules()] == [str(number) for number in range(1, 13)]
    assert all(list(lists) == ["Tests", "Mutants"] and all(lists.values()) for lists in rules().values())


def test_all_tests_that_a_rule_names_exist() -> None:
    named = set(re.findall(r"`(tests/[^`]+\.py(?:::[^`]+)?)`", RULES))
    assert len(named) > 50
    assert {test for test in named if not exists(test)} == set()


def test_all_mutants_that_a_rule_names_exist() -> None:
    known = {mutant.test for mutant in MUTANTS}
    assert {test for lists in rules().values() for test in lists["Mutants"]} - known == set()


def test_what_is_no_test_is_found() -> None:
    here = Path(__file__).relative_to(REPOSITORY)
    assert exists(f"{here}::test_what_is_no_test_is_found")
    assert not exists(f"{here}::test_that_is_not_there")
    assert not exists("tests/unit/test_that_is_not_there.py")


def test_the_glossary_has_each_term_once_and_in_order() -> None:
    glossary = (REPOSITORY / "docs/glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^\* \*\*(.+?)\*\*: ", glossary, re.MULTILINE)
    assert len(terms) > 50
    assert terms == sorted(set(terms))
