"""Reads the configuration: the file, its sections, and what contradicts itself in them."""

from pathlib import Path

from pydantic import ValidationError

from fleet.config.consistency import contradictions
from fleet.config.file import ConfigError, mistakes, read_yaml
from fleet.config.model import Config


def load(path: Path) -> Config:
    """Read the configuration.

    Args:
        path: the YAML file.

    Raises:
        ConfigError: with a line for each mistake: the file, the key and what is wrong with it.
    """
    data = read_yaml(path, own=True)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(mistakes(path, error))) from error
    if found := [f"{path}: {line}" for line in contradictions(config)]:
        raise ConfigError("\n".join(found))
    return config
