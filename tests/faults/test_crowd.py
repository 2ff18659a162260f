"""A crowd of connections with a valid token: see tests/faults/crowd.py."""

import resource

import pytest

from tests.faults.crowd import CONNECTIONS, MOST_MB, WAYS, allow_open_files, gather


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_no_crowd_of_connections_with_a_token_fills_the_memory(way: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTIONS + 1000:
        pytest.skip("needs more open files than this system allows")
    allow_open_files(CONNECTIONS)

    crowd = gather(WAYS[way], CONNECTIONS, 20)

    assert crowd.peak < MOST_MB, crowd
