"""Together's API called by hand over httpx: to test the simulator, and to look behind others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from tests.eventually import eventually
from tests.simulator import KEY

CHAT = "/v1/chat/completions"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
ENDED = frozenset({"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"})

Json = dict[str, Any]


def chat_line(custom_id: str, text: str = "hello", **body: Any) -> Json:
    """An input line that is fine."""
    messages = [{"role": "user", "content": text}]
    return {"custom_id": custom_id, "body": {"model": "m", "messages": messages, **body}}


def jsonl(lines: Iterable[object]) -> bytes:
    """Lines as a file's content."""
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


@dataclass(frozen=True)
class Outcome:
    """An ended batch, with what its files say by custom_id (broken lines left out)."""

    job: Json
    output: dict[str, Json]
    errors: dict[str, Json]


class ByHand:
    """One client with one API key. Answers are plain JSON; errors are not raised."""

    def __init__(self, url: str, key: str = KEY) -> None:
        """`url` is what goes into TOGETHER_BASE_URL."""
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}", "User-Agent": "by-hand/1"},
            timeout=30,
            verify=False,  # loading certificates takes longer than most tests
        )
        self._store = httpx.Client(timeout=30, verify=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.http.close()
        self._store.close()

    def announce(self, name: str = "input.jsonl", **fields: str) -> httpx.Response:
        """POST /v1/files; the answer redirects to the object store."""
        parts = {"purpose": "batch-api", "file_name": name, "file_type": "jsonl", **fields}
        return self.http.post(
            "/v1/files", files={part: (None, value) for part, value in parts.items()}
        )

    def put(self, location: str, content: bytes, headers: Mapping[str, str] = {}) -> httpx.Response:
        """PUT to the object store, without the key, following no redirect."""
        return self._store.put(location, content=content, headers=dict(headers))

    def upload(self, content: bytes | Iterable[object], name: str = "input.jsonl") -> str:
        """The presigned way, three calls. Returns the file's id."""
        announced = self.announce(name)
        file_id = announced.headers["x-together-file-id"]
        data = content if isinstance(content, bytes) else jsonl(content)
        self.put(announced.headers["location"], data).raise_for_status()
        self.http.post(f"/v1/files/{file_id}/preprocess").raise_for_status()
        return str(file_id)

    def upload_directly(self, content: bytes, name: str = "input.jsonl") -> httpx.Response:
        """The direct way, one call."""
        return self.http.post(
            "/v1/files/upload",
            data={"purpose": "batch-api", "file_name": name, "file_type": "jsonl"},
            files={"file": (name, content)},
        )

    def post_batch(self, file_id: str, endpoint: str = CHAT, **fields: Any) -> httpx.Response:
        """POST /v1/batches."""
        body = {"endpoint": endpoint, "input_file_id": file_id, **fields}
        return self.http.post("/v1/batches", json=body)

    def create(self, file_id: str, endpoint: str = CHAT, **fields: Any) -> str:
        """POST /v1/batches. Returns the batch's id."""
        answer = self.post_batch(file_id, endpoint, **fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job"]["id"])

    def batch(self, batch_id: str) -> Json:
        """GET /v1/batches/{id}."""
        job: Json = self.http.get(f"/v1/batches/{batch_id}").raise_for_status().json()
        return job

    def ended(self, batch_id: str) -> Json:
        """Poll until the batch has ended."""

        def look() -> Json | None:
            job = self.batch(batch_id)
            return job if job["status"] in ENDED else None

        job = eventually(look, interval=0.01)
        assert job is not None
        return job

    def content(self, file_id: str, **headers: str) -> httpx.Response:
        """GET /v1/files/{id}/content."""
        return self.http.get(f"/v1/files/{file_id}/content", headers=headers)

    def outcome(self, batch_id: str) -> Outcome:
        """Wait for the end and fetch both files."""
        job = self.ended(batch_id)
        output, errors = (
            {line["custom_id"]: line for line in self.lines(job.get(name))}
            for name in ("output_file_id", "error_file_id")
        )
        return Outcome(job, output, errors)

    def raw_lines(self, file_id: str | None) -> list[bytes]:
        """A file's lines as they are; none for no file."""
        if file_id is None:
            return []
        return self.content(file_id).raise_for_status().content.split(b"\n")[:-1]

    def lines(self, file_id: str | None) -> list[Json]:
        """A file's lines that can be read."""
        found = []
        for line in self.raw_lines(file_id):
            try:
                found.append(msgspec.json.decode(line, type=Json))
            except msgspec.DecodeError:
                continue
        return found

    def run(
        self, content: bytes | Iterable[object], endpoint: str = CHAT, name: str = "input.jsonl"
    ) -> Outcome:
        """Upload, create, wait, fetch."""
        return self.outcome(self.create(self.upload(content, name), endpoint))
