"""How Hypothesis works here: the same examples every time, however slow the machine."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "harness",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("harness")
