"""Where the repository's own files are, for tests that read them."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "config"
"""The examples of configuration."""
DATA = REPOSITORY / "tests" / "data"
"""What was recorded once, for tests that need it again."""
