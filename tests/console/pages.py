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
        "job-failures": f"/jobs/{world.done}/failures",
        "errors": "/errors",
        "accounts": "/accounts",
        "batches": "/batches",
        "batch-parked": f"/batches/{world.parked_batch}",
        "notices": "/notices",
        "producers": "/producers",
        "producer": "/producers/billing",
        "processes": "/processes",
        "audit": "/audit",
        "settings": "/settings",
        "login": "/login",
    }


NAMES = (
    "overview",
    "jobs",
    "jobs-searched",
    "job",
    "job-parked",
    "lanes",
    "job-failures",
    "errors",
    "accounts",
    "batches",
    "batch-parked",
    "notices",
    "producers",
    "producer",
    "processes",
    "audit",
    "settings",
    "login",
)
"""The same names, known before there is a world."""
