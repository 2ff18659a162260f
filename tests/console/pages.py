"""Every page of the console, for the tests and pictures that look at all of them."""

from tests.console.world import World


def pages(world: World) -> dict[str, str]:
    """Return the addresses below /console, by names for files."""
    return {
        "overview": "/",
        "jobs": "/jobs",
        "jobs-searched": "/jobs?q=producer:billing",
        "job": f"/jobs/{world.done}",
        "job-parked": f"/jobs/{world.parked}",
        "lanes": "/lanes",
        "login": "/login",
    }


NAMES = ("overview", "jobs", "jobs-searched", "job", "job-parked", "lanes", "login")
"""The same names, known before there is a world."""
