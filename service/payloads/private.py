"""Files and folders for their owner alone, whatever the umask: prompts and answers are in them."""

import os
from pathlib import Path


def private(path: str, flags: int) -> int:
    """Open a file, as the `opener` of `open` does. A new one only its owner may read."""
    return os.open(path, flags, 0o600)


def private_folder(folder: Path) -> None:
    """Create a folder and those above it, where there are none."""
    if not folder.is_dir():
        private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
