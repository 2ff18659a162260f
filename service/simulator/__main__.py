"""`python -m service.simulator`: the same as `haulier simulator`."""

import argparse
import sys
from pathlib import Path

from service.simulator.server import CannotServe, serve


def main() -> int:
    """Parse the command line and serve until a signal comes. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="simulator", description=__doc__)
    parser.add_argument("--port", type=int, default=8081, help="0 picks a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--batch-seconds", type=float, default=1.0, help="how long a batch takes")
    parser.add_argument("--scenario", type=Path, help="a scenario file (docs/simulator.md)")
    parser.add_argument("--data", type=Path, help="where state is kept; default: nowhere")
    options = parser.parse_args()
    try:
        serve(
            port=options.port,
            host=options.host,
            batch_seconds=options.batch_seconds,
            scenario=options.scenario,
            data=options.data,
        )
    except CannotServe as error:
        sys.stderr.write(f"simulator: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
