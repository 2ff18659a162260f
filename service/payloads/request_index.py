"""Finding one request of a manifest by its custom_id, without reading the whole manifest.

The first search writes an index: the sorted hashes of all custom_ids (64 bits each, big-endian).
Hashes are spread evenly, so the place of one can be estimated, and one short read tells whether it
is there. Only then is the manifest read, and its custom_ids decide.

No row names an index. It can be made again at any time, so it may be swept, and it is deleted with
its job like every blob beside it. Two processes that make it at once write the same bytes.
"""

from collections.abc import Sequence
from hashlib import blake2b
from math import isqrt

from service.payloads.blobs import Blobs, place_of
from service.rules.work import Entry, Manifest

SMALL = 1000
"""A manifest of up to this many requests has no index and is read whole."""
WIDTH = 8


def find(blobs: Blobs, manifest: Manifest, requests: int, custom_id: str) -> Entry | None:
    """Find the request with this custom_id in a manifest of `requests` requests.

    Returns None if it is not there. Raises FileNotFoundError if the manifest is gone.
    """
    if isinstance(manifest, str) and not _might(blobs, manifest, requests, custom_id):
        return None
    entries = blobs.get_manifest(manifest)
    return next((entry for entry in entries if entry.custom_id == custom_id), None)


def _might(blobs: Blobs, manifest: str, requests: int, custom_id: str) -> bool:
    is_blob = place_of(manifest)[2] is None
    if requests <= SMALL or not is_blob:
        return True
    return _may_hold(blobs, manifest, requests, hashed(custom_id))


def hashed(custom_id: str) -> bytes:
    return blake2b(custom_id.encode(errors="surrogatepass"), digest_size=WIDTH).digest()


def packed(entries: Sequence[Entry]) -> bytes:
    """Return the index of a manifest."""
    return b"".join(sorted([hashed(entry.custom_id) for entry in entries]))


def _may_hold(blobs: Blobs, manifest: str, requests: int, sought: bytes) -> bool:
    name = f"{manifest}.ids"
    try:
        near = _near(blobs, name, requests, sought)
    except FileNotFoundError:
        near = packed(blobs.get_manifest(manifest))
        blobs.put(name, near)
    return sought in (near[at : at + WIDTH] for at in range(0, len(near), WIDTH))


def _near(blobs: Blobs, name: str, requests: int, sought: bytes) -> bytes:
    """Read a range of the index that contains the hash if the index does."""
    middle = int.from_bytes(sought, "big") * requests >> 8 * WIDTH
    # The place of one of n evenly spread hashes deviates by half the root of n (one sigma). This
    # range allows for twelve sigmas. If it still does not enclose the hash, read the whole index.
    stray = 6 * isqrt(requests)
    first, last = max(middle - stray, 0), min(middle + stray, requests)
    near = b"".join(blobs.stream(name, first * WIDTH, (last - first) * WIDTH))
    begins = first == 0 or near[:WIDTH] <= sought
    ends = last == requests or near[-WIDTH:] >= sought
    return near if begins and ends else blobs.get(name)
