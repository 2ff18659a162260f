"""The inputs: request lines and answers of a given size, the same ones every time."""

import json
import random
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
WORDS = ("batch", "inference", "of", "many", "small", "requests", "over", "night", "costs", "half")


@cache
def prose(length: int, seed: int) -> str:
    """ASCII text of exactly so many characters as JSON has it, with the odd line feed."""
    words = random.Random(seed).choices(WORDS, k=length // 3 + 1)
    lines = [" ".join(words[at : at + 12]) for at in range(0, len(words), 12)]
    return r"\n".join(lines)[:length].rstrip("\\").ljust(length, ".")


def request_lines(count: int, length: int, *, first: int = 0) -> Iterator[bytes]:
    """Request lines of `length` bytes with their line feed.

    What goes beyond 600 bytes stands in an earlier message than the last, so that a simulator
    that echoes the last does not answer at the same length.
    """
    short = min(length, 600)
    head = b'{"custom_id":"request-%09d","body":{"model":"' + MODEL.encode() + b'","messages":['
    head += b'{"role":"system","content":"Answer in one sentence."},'
    tail = b'{"role":"user","content":"%s"}],"max_tokens":64,"temperature":0.2}}\n'
    frame = len(head % 0) + len(tail % b"")
    bulk = b""
    if length > short:
        before, after = b'{"role":"system","content":"', b'"},'
        text = prose(length - short - len(before) - len(after), 1).encode()
        bulk = before + text + after
    texts = [tail % prose(short - frame, seed).encode() for seed in range(64)]
    for number in range(first, first + count):
        yield head % number + bulk + texts[number % 64]


def write_requests(path: Path, count: int, length: int) -> Path:
    """A file of request lines."""
    with path.open("wb", buffering=1 << 20) as file:
        file.writelines(request_lines(count, length))
    return path


def answer_line(custom_id: str, length: int) -> bytes:
    """A line of an output file of about `length` bytes."""
    head = (
        f'{{"id":"{custom_id}","custom_id":"{custom_id}","response":{{"status_code":200,'
        f'"request_id":"r","body":{{"id":"c","object":"chat.completion","model":"{MODEL}",'
        '"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"'
    )
    tail = '"}}],"usage":{"prompt_tokens":120,"completion_tokens":400,"total_tokens":520}}}}\n'
    return (head + prose(length - len(head) - len(tail), 7) + tail).encode()


def json_answer_line(custom_id: str, length: int) -> bytes:
    """The same, with an answer that is JSON."""
    content = json.dumps({"label": "yes", "score": 0.5, "words": []}, separators=(",", ":"))
    line = answer_line(custom_id, length).decode()
    before, mark, after = line.partition('"content":"')
    text, end, tail = after.partition('"}}],"usage"')
    words = json.dumps(text.replace(r"\n", " ")[: len(text) - len(content)].split())
    whole = json.dumps(content.replace("[]", words.replace(", ", ",")))[1:-1]
    return f"{before}{mark}{whole}{end}{tail}".encode()


def error_line(custom_id: str) -> bytes:
    """A line of an error file whose request is worth no further attempt."""
    return (
        f'{{"custom_id":"{custom_id}","error":{{"code":"context_length_exceeded",'
        f'"message":"This model\'s maximum context length is 8193 tokens"}}}}\n'
    ).encode()


def write_shuffled(path: Path, lines: Iterable[bytes], seed: int = 1) -> Path:
    """A file of lines in an order of its own, as Together's are."""
    shuffled = list(lines)
    random.Random(seed).shuffle(shuffled)
    path.write_bytes(b"".join(shuffled))
    return path
