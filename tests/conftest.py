"""What all tests share."""

from hypothesis import settings

# How long an example takes is the machine's business: one that is busy is no reason to fail.
settings.register_profile("fleet", deadline=None)
settings.load_profile("fleet")
