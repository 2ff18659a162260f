"""The producers of a world: made through the API, with tokens of their own."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx

from tests.virtual_time.traffic import Submission, Team
from tests.virtual_time.world import World


class Company:
    """Makes a producer for each team, and submits in its name."""

    def __init__(self, world: World, teams: Sequence[Team], webhook: str | None = None) -> None:
        """`webhook`: where notices of the teams that want some go to."""
        self._world = world
        self._teams = teams
        self.webhooks = {team.name: webhook for team in teams if team.notified and webhook}
        self._admin = world.http()
        self._clients: dict[str, httpx.Client] = {}
        self._tokens: dict[str, str] = {}

    def __enter__(self) -> Self:
        for team in self._teams:
            asked = {"name": team.name, "accounts": [team.account]}
            self._use(team.name, self.admin("POST", "/v1/producers", json=asked)["token"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for client in (self._admin, *self._clients.values()):
            client.close()

    def admin(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """Call the API as an operator does. Raises httpx.HTTPStatusError."""
        answer = self._admin.request(method, path, **more)
        answer.raise_for_status()
        return dict(answer.json()) if answer.content else {}

    def submit(self, submission: Submission) -> UUID:
        """Submit a job, and say its id."""
        spec = dict(submission.spec)
        if webhook := self.webhooks.get(submission.team.name):
            spec["notify"] = [{"webhook": webhook}]
        answer = self._clients[submission.team.name].post("/v1/jobs", json=spec)
        assert answer.status_code in {200, 201}, f"{submission.key}: {answer.text}"
        return UUID(answer.json()["id"])

    def rotate(self, team: Team) -> None:
        """Replace a producer's token, as people should now and then."""
        path = f"/v1/producers/{team.name}/tokens"
        current = self.admin("GET", path)["data"][-1]["id"]
        asked = {"grace_seconds": 3600}
        self._use(team.name, self.admin("POST", f"{path}/{current}/rotate", json=asked)["token"])

    def _use(self, name: str, token: str) -> None:
        if (former := self._clients.pop(name, None)) is not None:
            former.close()
        self._clients[name] = self._world.http(token)
