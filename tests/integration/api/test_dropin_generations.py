"""What the models of older SDKs of Together's require is there, whatever state a batch is in.

The SDKs themselves run in tests/acceptance/test_sdk_generations.py, each in its own environment.
"""

from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.store import producers
from tests.api import Api
from tests.together_by_hand import CHAT, chat_line, jsonl

Json = dict[str, Any]
Fields = dict[str, type | tuple[str, ...]]
"""Each a type, or the words that it may be."""

_STATUSES = ("VALIDATING", "IN_PROGRESS", "COMPLETED", "FAILED", "EXPIRED", "CANCELLED")


def _batch_of(*statuses: str) -> Fields:
    return {
        "id": str,
        "user_id": str,
        "input_file_id": str,
        "file_size_bytes": int,
        "status": statuses,
        "job_deadline": datetime,
        "created_at": datetime,
        "endpoint": str,
    }


_FILE_OF_STAINLESS: Fields = {
    "id": str,
    "bytes": int,
    "created_at": int,
    "filename": str,
    "FileType": ("csv", "jsonl", "parquet"),
    "object": ("file",),
    "purpose": ("fine-tune", "calibration", "eval", "batch-api"),
}
# The required fields of `together.types.batch.BatchJob`, `….files.FileResponse` and
# `….files.FileDeleteResponse` (1.x), `together.types.FileResponse` and `FileList` (2.x, 3.x), read
# from the packages of these versions. 2.x and 3.x require nothing of a batch.
REQUIRED: dict[str, dict[str, Fields]] = {
    "1.5.13": {
        "batch": _batch_of(*_STATUSES),
        "file": {"id": str, "object": ("file",)},
        "deleted": {"id": str, "object": ("file",), "deleted": bool},
    },
    "1.6.0": {
        "batch": _batch_of(*_STATUSES, "CANCELING"),
        "file": {"id": str, "object": str},
        "deleted": {"id": str, "object": ("file",), "deleted": bool},
    },
    "2.42.0": {"file": {**_FILE_OF_STAINLESS, "Processed": bool}, "files": {"data": list}},
    "3.1.1": {"file": _FILE_OF_STAINLESS, "files": {"data": list}},
}
AGENTS = {
    "1.5.13": "Together/v1 PythonBindings/1.5.13",
    "1.6.0": "Together/v1 PythonBindings/1.6.0",
    "2.42.0": "Together/Python 2.42.0",
    "3.1.1": "Together/Python 3.1.1",
}
STATES = [
    "state = 'accepted'",
    "cancel_requested_at = now()",
    "state = 'running', started_at = now(), total = 2, pending = 2",
    "state = 'cancelled', finished_at = now(), pending = 0, failed = 2, generation = 1",
    "state = 'completed', cancel_requested_at = NULL",
    "state = 'failed', error = 'no'",
]


def missing(shown: Json, fields: Fields) -> list[str]:
    """Which of the fields are not as they have to be."""

    def fits(value: Any, wanted: type | tuple[str, ...]) -> bool:
        if isinstance(wanted, tuple):
            return value in wanted
        if wanted is datetime:
            return datetime.fromisoformat(value).tzinfo is not None
        return isinstance(value, wanted)

    return [name for name, wanted in fields.items() if not fits(shown.get(name), wanted)]


@pytest.mark.parametrize("version", REQUIRED)
def test_every_field_that_an_sdk_requires_is_there(refusing_api: Api, version: str) -> None:
    api, required = refusing_api, REQUIRED[version]
    token = producers.add_producer(api.db, f"billing-{uuid4()}").text
    headers = {"Authorization": f"Bearer {token}", "User-Agent": AGENTS[version]}
    base = f"{api.url}/together/v1"
    with httpx.Client(base_url=base, headers=headers, trust_env=False, timeout=60) as client:
        content = jsonl([chat_line("a")])
        form = {"purpose": "batch-api"}
        file = client.post("/files/upload", data=form, files={"file": ("a", content)}).json()
        files = client.get("/files").json()
        assert missing(files, required.get("files", {})) == []
        for shown in (file, client.get(f"/files/{file['id']}").json(), files["data"][0]):
            assert missing(shown, required["file"]) == []

        asked = {"endpoint": CHAT, "input_file_id": file["id"]}
        batch = client.post("/batches", json=asked).json()["job"]
        assert missing(batch, required.get("batch", {})) == []
        for change in STATES:
            api.harness.run(f"UPDATE haulier.jobs SET {change} WHERE id = :id", id=batch["id"])
            for shown in (
                client.get(f"/batches/{batch['id']}").json(),
                client.get("/batches").json()[0],
            ):
                assert missing(shown, required.get("batch", {})) == [], change

        deleted = client.delete(f"/files/{file['id']}").json()
        assert missing(deleted, required.get("deleted", {})) == []
        api.harness.run("DELETE FROM haulier.files WHERE id = :id", id=file["id"])
        long_after = client.get(f"/batches/{batch['id']}").json()
        assert missing(long_after, required.get("batch", {})) == []
