"""Every setting, read once, and the configuration of logging."""

from importlib.metadata import version

VERSION = version("haulier")
"""The version of this installation, as pyproject.toml names it."""
