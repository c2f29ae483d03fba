"""What comes with the library, and where it is: in a repository, or where an installation has put it."""

import sys
from pathlib import Path

from fleet_lab.errors import LabError

_HERE = Path(__file__).resolve()


def examples() -> Path:
    """Return the folder ``config/``: the repository's, or where an installation has put it.

    Raises:
        LabError: it is in neither place.
    """
    for folder in (_HERE.parents[2] / "config", Path(sys.prefix) / "share" / "fleet-cookbooks" / "config"):
        if (folder / "fleet.yaml").exists():
            return folder
    raise LabError(f"The examples of configuration files are not installed: {folder} is missing.")


def cookbooks_folder() -> Path:
    """Return the folder that holds ``cookbooks/``: the repository, or where packages are installed."""
    repository = _HERE.parents[2]
    return repository if (repository / "cookbooks").is_dir() else _HERE.parents[1]
