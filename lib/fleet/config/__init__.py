"""The configuration: models by section, and what contradicts itself in it."""
