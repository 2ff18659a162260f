"""The one error of `haulier up` and its parts."""


class StartError(Exception):
    """Something cannot be started. The message says what, why, and what to do about it."""
