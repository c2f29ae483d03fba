"""The command ``fleet``."""
