"""A form with a file (multipart/form-data), read as it arrives: nothing of the file is held."""

from collections.abc import AsyncIterator, Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from service.api import body
from service.api.dropin.errors import refused

FILE = "file"
"""The field that holds the file, also where a client gives no name with it."""
MOST_FIELDS = 20
MOST_VALUE_BYTES = 4096


class FormWithFile:
    """The fields of a form, and the bytes of its file. They may come in any order.

    `check` is called with each field's name and value, and raises HttpProblem for one that is not
    taken. An empty field counts as left out.
    """

    def __init__(self, request: Request, check: Callable[[str, str], None]) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        """What the file's part says; None before it began."""
        self._check = check
        self._name, self._value = "", bytearray()
        self._header, self._header_value, self._disposition = bytearray(), bytearray(), b""
        self._is_file, self._has_ended = False, False
        self._content = bytearray()
        self._parser = self._parser_for(request.headers.get("content-type", ""))
        self._pieces = self._read(request)

    async def begin(self) -> None:
        """Read to where the file begins. Raises HttpProblem, also where there is none."""
        async for _ in self._pieces:
            if self.filename is not None:
                return
        raise refused(f"missing required field: {FILE}", param=FILE)

    async def content(self) -> AsyncIterator[bytes]:
        """The file, in blocks. At its end all fields are known. Raises HttpProblem."""
        while True:
            if self._content:
                content = bytes(self._content)
                self._content.clear()
                yield content
            elif await anext(self._pieces, None) is None:
                return

    async def _read(self, request: Request) -> AsyncIterator[bool]:
        """Give the parser the body, a block at a time."""
        async for block in body.blocks(request):
            try:
                self._parser.write(block)
            except FormParserError as error:
                raise refused(f"the form cannot be read: {error}") from None
            yield True
        if not self._has_ended:
            raise refused("the form breaks off: its last boundary is missing")

    def _parser_for(self, content_type: str) -> MultipartParser:
        media_type, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if media_type != b"multipart/form-data" or not boundary:
            raise refused("content-type: send the file as multipart/form-data, with a boundary")
        try:
            return MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_text,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data,
                    "on_part_end": self._part_ends,
                    "on_end": self._ends,
                },
            )
        except FormParserError as error:
            raise refused(f"content-type: {error}") from None

    # --- what the parser calls --------------------------------------------------------------------

    def _part_begins(self) -> None:
        self._disposition = b""
        self._value.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_text(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_ends(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header.clear()
        self._header_value.clear()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise refused("the form has a part without a name")
        self._name = _text(options[b"name"], "the name of a field")
        self._is_file = self._name == FILE
        if self._is_file:
            if self.filename is not None:
                raise refused("the form has more than one file", param=FILE)
            self.filename = _text(options.get(b"filename", b""), "the name of the file")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._content += data[start:end]
            return
        self._value += data[start:end]
        if len(self._value) > MOST_VALUE_BYTES:
            raise refused(f"a field may have {MOST_VALUE_BYTES:,} bytes", param=self._name)

    def _part_ends(self) -> None:
        if self._is_file or not self._value:
            return
        if len(self.fields) == MOST_FIELDS:
            raise refused(f"the form may have {MOST_FIELDS} fields")
        value = _text(self._value, self._name)
        self._check(self._name, value)
        self.fields[self._name] = value

    def _ends(self) -> None:
        self._has_ended = True


def _text(data: bytes | bytearray, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise refused(f"{what}: is not text in UTF-8") from None
