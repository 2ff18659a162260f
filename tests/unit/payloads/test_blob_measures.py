"""What blob storage is said to have done, and whose fault it is said to be."""

from pathlib import Path

import pytest

from service.payloads.blobs import Blobs
from service.rules import measures


def counted() -> dict[tuple[str, ...], int]:
    return {
        key.labels: tally.count
        for key, tally in measures.take().items()
        if key.name == "haulier_blob_operations"
    }


def test_failures_are_told_from_what_is_missing_and_from_what_the_caller_meets(
    tmp_path: Path,
) -> None:
    root = tmp_path / "blobs"
    blobs = Blobs(root.as_uri())
    measures.take()
    blobs.put("jobs/a", b"abc")
    assert blobs.get("jobs/a") == b"abc"
    assert next(blobs.stream("jobs/a", block=1)) == b"a"
    with pytest.raises(FileNotFoundError):
        blobs.get("jobs/b")
    # The caller's own trouble says nothing of the storage.
    with pytest.raises(TimeoutError), blobs.writer("jobs/c"):
        raise TimeoutError
    blobs.delete(["jobs/a"])
    assert counted() == {
        ("write", "ok"): 1,
        ("read", "ok"): 2,
        ("read", "missing"): 1,
        ("delete", "ok"): 1,
    }

    (root / "jobs").rmdir()
    root.rmdir()
    root.write_text("a mount that is gone")
    with pytest.raises(OSError, match="blobs"), blobs.writer("jobs/d"):
        raise AssertionError
    assert counted() == {("write", "failed"): 1}
