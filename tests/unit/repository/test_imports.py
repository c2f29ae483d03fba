"""No module imports itself by way of others."""

from graphlib import CycleError, TopologicalSorter

import grimp


def test_there_is_no_circle_of_imports() -> None:
    """Finds what the contract of import-linter does not: circles between a package's own file and what is in it."""
    graph = grimp.build_graph("fleet", "fleet_lab", cache_dir=None)
    imports = TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    circle: list[str] = []
    try:
        imports.prepare()
    except CycleError as error:
        circle = error.args[1]

    assert circle == []
