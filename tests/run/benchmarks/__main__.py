"""Compare run.py with its peers:
python -m tests.run.benchmarks [--rounds N] [--only NAME...] [--picture FILE]

Prints a table in Markdown: medians over all rounds, and run.py's targets. Each target is a ratio
of two figures of the same run. In each round every loop has its turn, so that what else the
machine does meets them alike. It needs redis-server, and Linux or macOS. The memory is PSS on
Linux, elsewhere USS, which leaves out what processes share.
"""

import argparse
import contextlib
import itertools
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tests.run.benchmarks import measures, report
from tests.run.benchmarks.loops import (
    DEFAULT_SWITCHES,
    HUNDRED_THREADS,
    IN_PARENT,
    LOOPS,
    OURS,
    TWO_TERMINALS,
    Loop,
    Running,
    redis_server,
)

WORKER_LOOPS = (OURS, IN_PARENT, TWO_TERMINALS)
# What is measured in one life of a loop, in this order, and of which loops.
LIFE = {
    "start": (measures.start, LOOPS),
    "round_trip": (measures.round_trip, WORKER_LOOPS),
    "burst": (measures.burst, WORKER_LOOPS),
    "memory": (measures.memory, LOOPS),
    "edit": (measures.edit, LOOPS),
    "stop": (measures.stop, LOOPS),
}
NAMES = (*LIFE, "idle", "ping", "sleep")

Run = Callable[[Loop], Running]


def run_round(names: set[str], run: Run, figures: report.Figures) -> None:
    """Measure each of `names` once for each loop, and add that to `figures`.

    Args:
        names: the figures to take.
        run: starts a loop.
        figures: has a list for each row and loop.
    """
    if names & LIFE.keys():
        for loop in LOOPS:
            measure_life(loop, names, run, figures)
    if "idle" in names:
        measure_idle(run, figures)
    if "ping" in names:
        measure_pings(run, figures)
    if "sleep" in names:
        with run(HUNDRED_THREADS) as running:
            figures["sleep"][OURS.name].append(measures.sleep(running))
        figures["sleep"][report.IDEAL].append(10)


def measure_life(loop: Loop, names: set[str], run: Run, figures: report.Figures) -> None:
    """Take the figures of one life of a loop. Each life needs its start, asked for or not."""
    with run(loop) as running:
        for name, (measure, loops) in LIFE.items():
            if name == "start" or (name in names and loop in loops):
                figure = measure(running)
                if name in names:
                    figures[name][loop.name].append(figure)


def measure_idle(run: Run, figures: report.Figures) -> None:
    """Measure all loops at the same time."""
    with contextlib.ExitStack() as stack:
        running_loops = [stack.enter_context(run(loop)) for loop in LOOPS]
        for loop, figure in zip(LOOPS, measures.idle(running_loops), strict=True):
            figures["idle"][loop.name].append(figure)


def measure_pings(run: Run, figures: report.Figures) -> None:
    names = ("ping_p50", "ping_p99", "ping_tasks")
    for loop in (OURS, DEFAULT_SWITCHES, TWO_TERMINALS):
        with run(loop) as running:
            for name, figure in zip(names, measures.ping(running), strict=True):
                figures[name][loop.name].append(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.run.benchmarks", description=__doc__.partition("\n\n")[2]
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="how often each figure is taken (default: %(default)s)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES)
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="write the main figures as bars, in SVG"
    )
    args = parser.parse_args()
    if not shutil.which("redis-server"):
        parser.error("install redis-server")
    figures: report.Figures = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as redis_url:
        count = itertools.count()

        def run(loop: Loop) -> Running:
            number = next(count)
            return Running(loop, Path(folder, str(number)), f"{redis_url}/{number}")

        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
            run_round(set(args.only), run, figures)
    print(report.table(figures))
    if args.picture:
        args.picture.write_text(report.picture(figures))


if __name__ == "__main__":
    main()
