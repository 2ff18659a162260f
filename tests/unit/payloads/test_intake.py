"""Taking requests in: what is refused, and that shards point exactly at their lines."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.settings import Settings
from service.payloads import sharding
from service.payloads.blobs import Blobs
from service.payloads.intake import Intake, Taken, take_in
from service.payloads.sharding import MOST_MODELS
from service.rules.errors import BadInput
from service.rules.permissions import Permissions
from service.rules.requests import AUDIO, LINE_BYTES
from service.rules.spec import read_spec
from service.stages.upload import joined
from tests.factories import CHAT, MODEL, chat_line, chat_request, spec, take


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "blobs").as_uri())


def _refusal(blobs: Blobs, lines: Sequence[bytes], endpoint: str = CHAT) -> BadInput:
    with pytest.raises(BadInput) as refusal:
        take(blobs, lines, endpoint=endpoint)
    return refusal.value


def _uploads(blobs: Blobs, taken: Taken) -> list[list[bytes]]:
    """The lines of each shard as an upload would send them."""
    found = []
    for shard in taken.shards:
        ranges = joined(blobs.get_manifest(shard.manifest))
        data = b"".join(
            b"".join(blobs.stream(shard.input_blob, offset, length)) for offset, length in ranges
        )
        assert len(data) == shard.bytes
        assert data.endswith(b"\n")
        found.append(data.split(b"\n")[:-1])
    return found


# --- shards -------------------------------------------------------------------------------------


def test_shards_are_cut_by_count(blobs: Blobs) -> None:
    taken = take(blobs, [chat_line(f"r{i}") for i in range(7)], shard_requests=3)
    assert [shard.requests for shard in taken.shards] == [3, 3, 1]


def test_shards_are_cut_by_bytes_with_their_line_feeds(blobs: Blobs) -> None:
    lines = [chat_line(f"r{i}") for i in range(6)]
    two = 2 * (len(lines[0]) + 1)
    assert [s.requests for s in take(blobs, lines, shard_bytes=two).shards] == [2, 2, 2]
    assert [s.requests for s in take(blobs, lines, shard_bytes=two - 1).shards] == [1] * 6
    assert [s.requests for s in take(blobs, lines, shard_bytes=two + 1).shards] == [2, 2, 2]


def test_a_line_beyond_the_shard_size_gets_a_shard_of_its_own(blobs: Blobs) -> None:
    lines = [chat_line("a"), chat_line("big", pad="x" * 1000), chat_line("b")]
    taken = take(blobs, lines, shard_bytes=300)
    assert [s.requests for s in taken.shards] == [1, 1, 1]


def test_shards_come_in_input_order(blobs: Blobs) -> None:
    lines = [chat_line(f"r{i}", model="mn"[i % 2]) for i in range(10)]
    taken = take(blobs, lines, shard_requests=2)
    firsts = [blobs.get_manifest(shard.manifest)[0].ordinal for shard in taken.shards]
    assert firsts == sorted(firsts)


@settings(max_examples=60)
@given(
    requests=st.lists(
        st.tuples(st.sampled_from(["m", "n", "ö"]), st.integers(0, 40)), min_size=1, max_size=30
    ),
    shard_requests=st.integers(1, 8),
    shard_bytes=st.integers(100, 800),
    canary=st.integers(0, 31),
)
def test_every_entry_points_exactly_at_its_line(
    blobs: Blobs,
    requests: list[tuple[str, int]],
    shard_requests: int,
    shard_bytes: int,
    canary: int,
) -> None:
    lines = [
        chat_line(f"id-{i}", model=model, pad="é" * pad) for i, (model, pad) in enumerate(requests)
    ]
    taken = take(
        blobs, lines, shard_requests=shard_requests, shard_bytes=shard_bytes, canary=canary or None
    )

    ordinals = []
    for shard, sent in zip(taken.shards, _uploads(blobs, taken), strict=True):
        entries = blobs.get_manifest(shard.manifest)
        assert len(entries) == shard.requests <= shard_requests
        assert shard.bytes <= shard_bytes or shard.requests == 1
        assert sent == [lines[entry.ordinal] for entry in entries]
        assert [entry.custom_id for entry in entries] == [f"id-{e.ordinal}" for e in entries]
        assert {requests[entry.ordinal][0] for entry in entries} == {shard.model}
        assert [entry.ordinal for entry in entries] == sorted(e.ordinal for e in entries)
        assert {(entry.attempts, entry.lost) for entry in entries} == {(0, 0)}
        assert {0 < canary <= entry.ordinal for entry in entries} == {shard.held}
        for entry in entries:
            piece = b"".join(blobs.stream(shard.input_blob, entry.offset, entry.length))
            assert piece == lines[entry.ordinal] + b"\n"
        ordinals += [entry.ordinal for entry in entries]
    assert sorted(ordinals) == list(range(len(lines)))
    assert taken.total == len(lines)


def test_blank_lines_are_passed_over_but_counted_in_line_numbers(blobs: Blobs) -> None:
    lines = [b"", chat_line("a"), b"  ", b"\r", chat_line("b") + b"\r"]
    taken = take(blobs, lines)
    assert taken.total == 2
    assert _uploads(blobs, taken) == [[chat_line("a"), chat_line("b")]]
    problems = _refusal(blobs, [*lines, b"oops"]).problems
    assert [problem.line for problem in problems] == [6]


def test_64_models_are_taken(blobs: Blobs) -> None:
    lines = [chat_line(f"r{i}", model=f"model-{i % MOST_MODELS}") for i in range(2 * MOST_MODELS)]
    taken = take(blobs, lines)
    assert len(taken.shards) == MOST_MODELS
    assert {shard.requests for shard in taken.shards} == {2}


def test_the_65th_model_is_refused(blobs: Blobs) -> None:
    lines = [chat_line(f"r{i}", model=f"model-{i}") for i in range(MOST_MODELS + 1)]
    (problem,) = _refusal(blobs, lines).problems
    assert problem.line == 65
    assert "64 models" in problem.message


# --- refusals -----------------------------------------------------------------------------------


def test_every_bad_line_is_named(blobs: Blobs) -> None:
    lines = [
        chat_line("a"),
        b"oops",
        chat_line("a"),
        chat_line(""),
        chat_line("x" * 65),
        b'{"custom_id": "d", "body": []}',
        chat_line("good"),
        chat_line("good"),
        chat_line("back\u202ewards"),
    ]
    problems = _refusal(blobs, lines).problems
    assert [problem.line for problem in problems] == [2, 3, 4, 5, 6, 8, 9]
    assert problems[1].message == "custom_id 'a' was used before"


def test_a_hundred_problems_are_named_and_the_rest_counted(blobs: Blobs) -> None:
    refusal = _refusal(blobs, [b"oops"] * 250)
    assert [problem.line for problem in refusal.problems] == list(range(1, 101))
    assert refusal.more == 150
    assert str(refusal).endswith("; and 150 more")


@pytest.mark.parametrize("lines", [[], [b""], [b" ", b"\r"]])
def test_an_input_without_requests_is_refused(blobs: Blobs, lines: list[bytes]) -> None:
    (problem,) = _refusal(blobs, lines).problems
    assert (problem.message, problem.line) == ("the input holds no requests", None)


def test_nothing_of_a_refused_input_becomes_a_blob(tmp_path: Path) -> None:
    blobs = Blobs((tmp_path / "blobs").as_uri())
    _refusal(blobs, [chat_line("a"), b"oops"])
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("endpoint", AUDIO)
def test_an_audio_line_without_its_method_is_refused(blobs: Blobs, endpoint: str) -> None:
    body = {"model": "m", "file": "https://x/a"}
    good = msgspec.json.encode({"custom_id": "a", "body": body, "method": "FILE"})
    bad = msgspec.json.encode({"custom_id": "b", "body": body})
    assert take(blobs, [good], endpoint=endpoint).total == 1
    (problem,) = _refusal(blobs, [good, bad], endpoint).problems
    assert str(problem) == 'line 2: must have "method": "FILE" (audio endpoints need it)'


# --- specs --------------------------------------------------------------------------------------


def test_a_spec_with_an_input_is_not_taken_in_yet(blobs: Blobs) -> None:
    content = msgspec.json.encode({"endpoint": CHAT, "input": "s3://b/a"})
    read = read_spec(content, Permissions(input_roots=("s3://b",)))
    assert take_in(read, blobs, "jobs/x", Settings()) is None


def test_the_hash_is_only_made_where_it_is_asked_for(blobs: Blobs) -> None:
    unhashed = take_in(spec("a"), blobs, "jobs/1", Settings())
    hashed = take_in(spec("a", idempotency_key="k"), blobs, "jobs/2", Settings())
    assert unhashed is not None
    assert unhashed.sha256 is None
    assert hashed is not None
    assert hashed.sha256 is not None


def test_an_indented_spec_is_one_line_for_each_request(blobs: Blobs) -> None:
    content = {"endpoint": CHAT, "requests": [chat_request("a"), chat_request("b")]}
    pretty = msgspec.json.format(msgspec.json.encode(content), indent=4)
    taken = take_in(read_spec(pretty, Permissions()), blobs, "jobs/x", Settings())
    assert taken is not None
    (sent,) = _uploads(blobs, taken)
    assert [msgspec.json.decode(line) for line in sent] == content["requests"]


def test_a_deeply_nested_request_with_a_key_is_refused_not_broken(blobs: Blobs) -> None:
    # Near the depth that Python allows, reading may pass where writing it anew does not.
    for depth in (100, 400, 800, 900, 950, 980, 1100):
        line = b'{"custom_id":"a","body":{"model":"m","x":' + b"[" * depth + b"]" * depth + b"}}"
        content = b'{"endpoint":"%s","idempotency_key":"k","requests":[%s]}' % (
            CHAT.encode(),
            line,
        )
        try:
            take_in(read_spec(content, Permissions()), blobs, f"jobs/{depth}", Settings())
        except BadInput as refusal:
            assert "recursion" in str(refusal)  # noqa: PT017  either end is right, no third one


def test_leaving_early_leaves_no_blob(tmp_path: Path) -> None:
    blobs = Blobs((tmp_path / "blobs").as_uri())
    taking = Intake(blobs, "jobs/x", CHAT, Settings())
    with pytest.raises(KeyboardInterrupt), taking:
        _interrupted(taking)
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def _interrupted(taking: Intake) -> None:
    taking.add(chat_line("a"))
    raise KeyboardInterrupt


def test_requests_that_cost_more_than_they_may_before_any_answer_are_refused(
    tmp_path: Path,
) -> None:
    price = {"from": "2020-01-01", "input": "40", "output": "400"}
    priced = Settings.model_validate({"prices": {MODEL: [price]}})
    lines = [chat_line(f"r{i}", pad="x" * 10_000) for i in range(4)]

    def taken(most: str, endpoint: str = CHAT) -> Taken:
        blobs = Blobs((tmp_path / "blobs").as_uri())
        with Intake(blobs, "jobs/x", endpoint, priced, max_cost=Decimal(most)) as taking:
            for line in lines:
                taking.add(line)
            return taking.finish()

    assert taken("0.3").total == 4
    with pytest.raises(BadInput, match=r"`max_cost` is 0.1 USD, and the requests cost about 0.20"):
        taken("0.1")


# --- blocks -------------------------------------------------------------------------------------


def _fed(blobs: Blobs, content: bytes, size: int, **fields: int) -> Taken | BadInput:
    """What comes of JSONL that arrives in blocks of a size."""
    limits = Settings.model_validate(fields)
    with Intake(blobs, f"jobs/{uuid4()}", CHAT, limits, hashed=True, canary=3) as taking:
        for start in range(0, len(content), size):
            taking.feed(content[start : start + size])
        try:
            return taking.finish()
        except BadInput as refusal:
            return refusal


def _told(taken: Taken | BadInput, blobs: Blobs) -> object:
    """What a producer or a later stage can see of it."""
    if isinstance(taken, BadInput):
        return [(problem.line, problem.message) for problem in taken.problems], taken.more
    shards = [
        (
            shard.model,
            shard.bytes,
            blobs.get_manifest(shard.manifest),
            blobs.get(shard.input_blob),
        )
        for shard in taken.shards
    ]
    return taken.total, taken.sha256, shards


LINES = st.one_of(
    st.builds(
        lambda custom_id, model: chat_line(custom_id, model=model),
        st.text("abc\u00e9\u2028", min_size=1, max_size=2),
        st.sampled_from(["one", "two"]),
    ),
    st.sampled_from([b"", b"  ", b"{", b"nonsense", b"[]", b'{"custom_id": "\\u0000"}', b"\xff"]),
)


@given(
    lines=st.lists(LINES, max_size=12), size=st.integers(1, 400), end=st.sampled_from([b"", b"\n"])
)
@settings(deadline=None, max_examples=30)
def test_blocks_of_any_size_come_to_the_same_as_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], size: int, end: bytes
) -> None:
    blobs = Blobs(tmp_path_factory.mktemp("blobs").as_uri())
    content = b"\n".join(lines) + end
    one_by_one = _fed(blobs, content, 1)
    assert _told(_fed(blobs, content, size), blobs) == _told(one_by_one, blobs)


@pytest.mark.parametrize("after", [b"", chat_line("b")])
@pytest.mark.parametrize("before", [b"", chat_line("a")])
def test_a_line_that_is_mostly_blank_is_refused_not_passed_over(
    blobs: Blobs, before: bytes, after: bytes
) -> None:
    line = before + b" " * (LINE_BYTES + 1) + after
    refused = _fed(blobs, chat_line("c") + b"\n" + line, 1 << 20)
    assert isinstance(refused, BadInput)
    assert [problem.line for problem in refused.problems] == [2]


def test_a_repeated_custom_id_is_named_with_its_line_though_it_stands_in_another_shard(
    blobs: Blobs,
) -> None:
    ids = [f"r{number}" for number in range(30)]
    lines = [chat_line(custom_id) for custom_id in [*ids, "r3", "r17", "r3"]]
    refused = _fed(blobs, b"\n\n".join(lines), 1000, shard_requests=4)
    assert isinstance(refused, BadInput)
    assert [(problem.line, problem.message) for problem in refused.problems] == [
        (61, "custom_id 'r3' was used before"),
        (63, "custom_id 'r17' was used before"),
        (65, "custom_id 'r3' was used before"),
    ]


def test_of_very_many_repeated_custom_ids_a_hundred_are_named_and_all_are_counted(
    blobs: Blobs,
) -> None:
    lines = [chat_line(f"r{number}") for number in range(1200)] * 2
    refused = _fed(blobs, b"\n".join(lines), 1 << 16)
    assert isinstance(refused, BadInput)
    assert len(refused.problems) == 100
    assert refused.more == 1100


def test_bad_lines_and_repeated_ids_are_told_in_the_order_of_their_lines(blobs: Blobs) -> None:
    content = b"\n".join([chat_line("a"), chat_line("a"), b"nonsense", chat_line("a")])
    refused = _fed(blobs, content, 1 << 16)
    assert isinstance(refused, BadInput)
    assert [problem.line for problem in refused.problems] == [2, 3, 4]


def test_shards_of_many_models_are_cut_before_they_fill_the_memory(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "MOST_OPEN", 10)
    lines = [chat_line(f"r{n}", model=f"model-{n % 3}") for n in range(60)]
    taken = _fed(blobs, b"\n".join(lines), 500)
    assert isinstance(taken, Taken)
    assert len(taken.shards) > 3
    ordinals = [
        entry.ordinal for shard in taken.shards for entry in blobs.get_manifest(shard.manifest)
    ]
    assert sorted(ordinals) == list(range(60))
