"""How the loops start: settings, logging, and no traceback for a bad setting."""

import sys
from collections.abc import Callable

from config.logging import configure
from config.settings import Settings, SettingsError, settings


def run(main: Callable[[Settings], None]) -> None:
    """Run a process's main function. Exits with 2 and the variable's name on a bad setting."""
    try:
        configure(settings())
        main(settings())
    except SettingsError as error:
        sys.stderr.write(f"haulier: {error}\n")
        raise SystemExit(2) from None
