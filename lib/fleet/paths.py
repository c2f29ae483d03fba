"""Where this project's configuration is; apart from the models of it, which take long to import."""

import os
from pathlib import Path

DEFAULT_PATH = Path("/etc/spicerack/fleet/config.yaml")


def default_path(config_dir: Path = DEFAULT_PATH.parent.parent) -> Path:
    """Return the file that ``$FLEET_CONFIG`` names, or the one in spicerack's configuration directory."""
    return Path(os.environ.get("FLEET_CONFIG") or config_dir / "fleet" / "config.yaml")
