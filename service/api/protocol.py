"""Below HTTP: requests that are not well-formed, or whose body ends before its time."""

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.api.problems import BROKEN_BODY, MEDIA_TYPE, document


class Protocol(H11Protocol):
    """uvicorn's HTTP protocol; it answers what cannot be read with a problem document."""

    def eof_received(self) -> None:
        """The client sends no more: a body that is not whole by now never will be."""
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete:
            self.conn.receive_data(b"")
            self.handle_events()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # Whoever reads the body learns that no more of it comes, and answers nobody.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = document(BROKEN_BODY, msg)
            headers = [
                ("content-type", MEDIA_TYPE),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers, reason="Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
