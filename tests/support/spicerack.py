"""Spicerack, as it is on the machine of one operator."""

from pathlib import Path

from spicerack import Spicerack


class Ann(Spicerack):
    """What spicerack gives to a cookbook that ann runs on the machine here.

    Args:
        config_dir: the folder of spicerack's configuration; nothing is in the default one.
        dry_run: whether this is a dry-run.
    """

    def __init__(self, config_dir: Path = Path("/nonexistent"), *, dry_run: bool = False) -> None:
        super().__init__(dry_run=dry_run, spicerack_config_dir=str(config_dir))

    @property
    def username(self) -> str:
        return "ann"

    @property
    def current_hostname(self) -> str:
        return "here"
