"""Taking requests in as Haulier does it, without the HTTP around it. Runs in a child."""

from pathlib import Path
from uuid import uuid4

from config.settings import Settings
from service.payloads.blobs import Blobs
from service.payloads.intake import Intake
from service.rules.requests import CHAT

BLOCK = 1 << 20


def take(path: str, blobs: str) -> int:
    """Take a file in, hashed and cut. Gives how many requests it held."""
    storage = Blobs(Path(blobs).as_uri())
    with (
        Path(path).open("rb", buffering=0) as file,
        Intake(storage, f"jobs/{uuid4()}", CHAT, Settings(), hashed=True) as intake,
    ):
        while block := file.read(BLOCK):
            intake.feed(block)
        return intake.finish().total
