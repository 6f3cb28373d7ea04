"""``python -m evidence run`` runs what has no record yet, ``report`` writes the page, ``check`` runs a few again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evidence.again import check
from evidence.plan import ALL, PARTS, SHORT
from evidence.running import Workers, run
from evidence.trials import RESULTS

INTERRUPTED = 130
"""The exit status that shells give to what Ctrl-C has stopped."""
GROUPS = {"short": SHORT, "all": ALL}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run the trials that have no record")
    running.add_argument("--minutes", type=float, default=float("inf"), help="start no trial after so long")
    checking = commands.add_parser("check", help="run a few recorded trials again and compare")
    checking.add_argument("--count", type=int, default=20, help="how many; by default %(default)s")
    checking.add_argument("--seed", type=int, default=0, help="of the draw; by default %(default)s")
    reporting = commands.add_parser("report", help="write the page and its figures from the records")
    names = [*PARTS, "short", "all"]
    for command in (running, checking):
        command.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}; by default short")
        command.add_argument("--jobs", type=int, help="trials at once; by default one a core, on a GPU one")
        command.add_argument("--threads", type=int, help="of torch for each; by default what cores there are for it")
    for command in (running, checking, reporting):
        command.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    given = parser.parse_args(arguments)
    if given.command != "report":
        unknown = sorted(set(given.parts) - set(names))
        if unknown:
            parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(names)}")
        for name in ("jobs", "threads", "count"):
            value = getattr(given, name, None)
            if value is not None and value < 1:
                parser.error(f"--{name} is {value}; it must be at least 1")
        listed = [part for name in given.parts or ["short"] for part in GROUPS.get(name, [name])]
        workers = Workers.of(given.jobs, given.threads)
        if given.command == "run":
            try:
                run(listed, given.results, given.minutes, workers)
            except KeyboardInterrupt:
                print("stopped; what has run is recorded: run again to go on")
                return INTERRUPTED
            return 0
        return 0 if check(listed, given.results, given.count, given.seed, workers) else 1
    from evidence.report import write

    write(given.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
