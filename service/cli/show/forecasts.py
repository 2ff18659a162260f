"""When something will be done, in words."""

from service.cli.documents import Forecast
from service.cli.screen import local


def ending(forecast: Forecast | None) -> str | None:
    """Say when something ends, or why nobody can tell; None where there is nothing to say."""
    if forecast is None:
        return None
    if forecast.p50 is None or forecast.p90 is None:
        return f"nobody can tell: {forecast.reason}"
    return f"by {local(forecast.p50)} (50 %), by {local(forecast.p90)} (90 %)"
