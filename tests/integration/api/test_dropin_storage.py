"""What uploads may fill: bounded while bytes arrive, given back at once, and not kept for ever."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import httpx
import pytest

from service.api import watching
from service.rules.credentials import id_of
from service.store import files as store
from service.store.credentials import revoke_token
from service.store.producers import disable, enable, set_producer
from service.upkeep import files
from tests.api import Api
from tests.eventually import eventually
from tests.integration.api.test_dropin import Door
from tests.together_by_hand import chat_line, jsonl

DAYS = timedelta(days=30)
LINES = jsonl([chat_line("a")])


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.05)


@pytest.fixture
def door(api: Api) -> Door:
    return Door(api)


def kept(door: Door) -> list[Path]:
    """Every blob of an upload, half-written ones among them."""
    folder = Path(unquote(urlsplit(door.api.blobs.url).path)) / "files"
    return [path for path in folder.rglob("*") if path.is_file()]


def uploads(door: Door) -> int:
    return int(door.api.harness.rows("SELECT count(*) FROM haulier.uploads")[0])


def sent(door: Door, content: bytes) -> int:
    """A new file with this content, of unknown size until it is there."""
    _, url = door.announce()
    return httpx.put(url, content=iter([content]), trust_env=False, timeout=60).status_code


def later(door: Door, file_id: str, days: int) -> None:
    door.api.harness.run(
        "UPDATE haulier.files SET renewed_at = now() - cast(:ago AS interval) WHERE id = :id",
        ago=timedelta(days=days),
        id=file_id,
    )


class Arriving:
    """The beginning of an upload, on a connection that stays open."""

    def __init__(self, door: Door, url: str) -> None:
        self.url = url
        at = urlsplit(url)
        self._connection = socket.create_connection((at.hostname, at.port), timeout=30)
        head = f"PUT {at.path}?{at.query} HTTP/1.1\r\nHost: {at.netloc}\r\n"
        self._send(f"{head}Transfer-Encoding: chunked\r\n\r\n")
        self._send(f"{1_100_000:x}\r\n{'x' * 1_100_000}\r\n")
        eventually(lambda: kept(door))

    def _send(self, text: str) -> None:
        self._connection.sendall(text.encode())

    def finish(self) -> int:
        self._send("0\r\n\r\n")
        return self.answer()

    def answer(self) -> int:
        return int(self._connection.recv(100).split()[1])

    def break_off(self) -> None:
        self._connection.close()


@pytest.fixture
def arriving(door: Door) -> Iterator[Arriving]:
    _, url = door.announce()
    begun = Arriving(door, url)
    yield begun
    begun.break_off()


# --- what is refused leaves nothing --------------------------------------------------------------


def test_bytes_that_are_refused_are_deleted_at_once(door: Door) -> None:
    _, wrong = door.announce(checksum="0" * 64)
    assert [door.put(wrong, b"x" * 1000) for _ in range(3)] == [400] * 3
    assert kept(door) == []
    _, url = door.announce()
    assert [door.put(url, LINES), door.put(url, LINES), door.put(url, LINES[::-1])] == [
        *(200, 200, 409)
    ]
    assert len(kept(door)) == 1
    assert uploads(door) == 0


def test_an_upload_that_breaks_off_leaves_nothing(door: Door, arriving: Arriving) -> None:
    assert uploads(door) == 1
    arriving.break_off()
    eventually(lambda: not kept(door) and not uploads(door))


def test_of_two_uploads_at_once_the_first_that_is_whole_is_the_file(
    door: Door, arriving: Arriving
) -> None:
    assert door.put(arriving.url, LINES) == 200
    assert arriving.finish() == 409
    (blob,) = kept(door)
    assert blob.read_bytes() == LINES
    assert uploads(door) == 0


# --- how much ------------------------------------------------------------------------------------


def test_a_producer_stores_up_to_its_limit(api: Api) -> None:
    door = Door(api, stored_bytes=1000)
    first, url = door.announce()
    assert door.put(url, b"x" * 900) == 200

    _, url = door.announce()
    over = httpx.put(url, content=b"y" * 101, trust_env=False, timeout=60)
    assert (over.status_code, over.headers["retry-after"]) == (429, "60")
    assert "may store 1,000 bytes of files; 900 are used" in over.text
    assert (door.put(url, b"y" * 1001), sent(door, b"y" * 101)) == (413, 429)
    assert len(kept(door)) == 1
    assert door.put(url, b"y" * 100) == 200
    assert door.put(url, b"y" * 100) == 200  # the answer was lost

    # A file that is deleted makes room at once, and one that a job is to read when it is read.
    assert door.http("DELETE", f"/files/{first}").status_code == 200
    assert len(kept(door)) == 1
    assert sent(door, b"z" * 900) == 200
    assert sent(door, b"z") == 429


def test_uploads_side_by_side_do_not_exceed_it_together(api: Api) -> None:
    door = Door(api, stored_bytes=3_500_000)
    with ThreadPoolExecutor(6) as pool:
        found = sorted(pool.map(sent, [door] * 6, [b"x" * 1_100_000] * 6))

    assert set(found) <= {200, 429}
    assert 1 <= found.count(200) <= 3
    assert sum(path.stat().st_size for path in kept(door)) == found.count(200) * 1_100_000
    assert uploads(door) == 0


def test_an_upload_whose_process_died_counts_for_a_few_minutes(api: Api) -> None:
    door = Door(api, stored_bytes=1000)
    file_id, _ = door.announce()
    api.harness.run(
        "INSERT INTO haulier.uploads (id, file_id, producer, bytes) VALUES (:id, :file, :who, 950)",
        id=uuid4(),
        file=file_id,
        who=door.producer,
    )
    assert sent(door, b"x" * 100) == 429
    api.harness.run("UPDATE haulier.uploads SET seen_at = now() - interval '6 minutes'")
    assert sent(door, b"x" * 100) == 200


def test_only_so_many_files_are_announced_and_not_sent(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_ANNOUNCED", 2)
    (first, _), (_, url) = door.announce(), door.announce()
    form = {"purpose": "batch-api", "file_name": "a.jsonl", "file_type": "jsonl"}

    refused = door.http("POST", "/files", files={n: (None, v) for n, v in form.items()})

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
    assert "2 files were announced and not sent" in refused.text
    assert door.put(url, LINES) == 200
    door.announce()
    assert door.http("DELETE", f"/files/{first}").status_code == 200
    door.announce()


# --- for how long --------------------------------------------------------------------------------


def test_a_file_expires_and_says_when(door: Door) -> None:
    file_id, url = door.announce()
    assert door.put(url, LINES) == 200
    shown = door.http("GET", f"/files/{file_id}").json()
    assert abs(shown["expires_at"] - shown["created_at"] - 30 * 86_400) <= 60

    later(door, file_id, days=29)
    files.expire(door.api.db, door.api.blobs, DAYS)
    assert door.http("GET", f"/files/{file_id}").status_code == 200
    later(door, file_id, days=31)
    files.expire(door.api.db, door.api.blobs, DAYS)

    assert door.http("GET", f"/files/{file_id}").status_code == 404
    assert kept(door) == []


def test_a_file_that_is_announced_again_begins_its_time_anew(door: Door, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    file_id = door.client.files.upload(path, purpose="batch-api").id
    later(door, file_id, days=31)
    assert door.client.files.upload(path, purpose="batch-api").id == file_id
    files.expire(door.api.db, door.api.blobs, DAYS)
    assert door.client.files.content(file_id).read() == LINES


@pytest.mark.parametrize("deleted", [False, True])
def test_a_file_that_a_job_is_still_to_read_stays(door: Door, *, deleted: bool) -> None:
    file_id, url = door.announce()
    assert door.put(url, LINES) == 200
    door.create(file_id)
    if deleted:
        assert door.http("DELETE", f"/files/{file_id}").status_code == 200
    later(door, file_id, days=31)
    files.expire(door.api.db, door.api.blobs, DAYS)
    assert len(kept(door)) == 1

    door.api.harness.run("UPDATE haulier.jobs SET state = 'running', started_at = now()")
    files.expire(door.api.db, door.api.blobs, DAYS)

    assert kept(door) == []
    assert door.http("GET", f"/files/{file_id}").status_code == 404


# --- by whom -------------------------------------------------------------------------------------


def end_token(door: Door) -> None:
    assert revoke_token(door.api.db, door.producer, str(id_of(door.token)))


def expire_token(door: Door) -> None:
    door.api.harness.run("UPDATE haulier.tokens SET expires_at = now()")


def disable_producer(door: Door) -> None:
    disable(door.api.db, door.producer)


ENDS = [end_token, expire_token, disable_producer]


@pytest.mark.parametrize("end", ENDS)
def test_an_upload_url_ends_with_the_token_that_asked_for_it(
    door: Door, arriving: Arriving, end: Callable[[Door], None]
) -> None:
    _, url = door.announce()
    end(door)
    assert door.put(url, LINES) == 404
    assert arriving.answer() == 404
    eventually(lambda: not kept(door) and not uploads(door))
    enable(door.api.db, door.producer)
    assert door.put(url, LINES) == (200 if end is disable_producer else 404)


def test_bytes_that_come_again_are_compared_no_longer_than_their_url_is_valid(door: Door) -> None:
    _, url = door.announce()
    assert door.put(url, b"x" * 2_000_000) == 200
    again = Arriving(door, url)
    end_token(door)
    assert again.answer() == 404
    again.break_off()


def test_a_download_is_cut_off_when_its_token_ends(door: Door) -> None:
    size = 40_000_000  # far more than sockets hold
    file_id, url = door.announce()
    assert door.put(url, b"x" * size) == 200
    headers = {"Authorization": f"Bearer {door.token}"}
    path = f"{door.url}/files/{file_id}/content"
    with httpx.stream("GET", path, headers=headers, trust_env=False, timeout=60) as answer:
        read = answer.iter_bytes()
        next(read)
        end_token(door)
        time.sleep(2 * watching.LOOK_SECONDS)  # it looks no more often than that
        with pytest.raises(httpx.RemoteProtocolError):
            list(read)


def test_a_limit_that_is_taken_away_bounds_nothing(api: Api) -> None:
    door = Door(api, stored_bytes=10)
    assert sent(door, LINES) == 413
    set_producer(api.db, door.producer, {"stored_bytes": None})
    assert sent(door, LINES) == 200
