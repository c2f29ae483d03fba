"""Errors that an operator can act on."""


class FleetError(Exception):
    """Base of all errors of this library.

    The text is a sentence for an operator: what went wrong, where, and what to do next. Cookbooks print it without a
    traceback.
    """
