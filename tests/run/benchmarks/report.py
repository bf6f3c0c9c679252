"""The figures as a table and as a picture."""

import statistics
from dataclasses import dataclass
from html import escape

from tests.run.benchmarks.loops import DEFAULT_SWITCHES, LOOPS, OURS, TWO_TERMINALS, UVICORN
from tests.run.benchmarks.measures import NEVER

# It has them by row and loop, one for each round.
Figures = dict[str, dict[str, list[float]]]
IDEAL = "ideal"


@dataclass(frozen=True)
class Target:
    """What run.py's figure is to be.

    It is at most `factor` times the peer's and `extra`. With `more`, it is at least that.
    """

    peer: str
    factor: float
    extra: float = 0
    more: bool = False


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    unit: str
    targets: tuple[Target, ...] = ()
    scale: float = 1

    def format(self, figure: float) -> str:
        if figure == NEVER:
            return "never"
        figure *= self.scale
        digits = 2 if figure < 3 else 1 if figure < 30 else 0
        return f"{figure:.{digits}f} {self.unit}"


ROWS = (
    Row("start", "Start to first answer", "s", (Target(UVICORN.name, 1.1),)),
    Row(
        "edit",
        "Edit of a task to its new answer",
        "s",
        (Target(UVICORN.name, 0.9), Target(TWO_TERMINALS.name, 1 / 3)),
    ),
    Row("stop", "Ctrl-C to exit, idle", "s", (Target(UVICORN.name, 1, extra=0.1),)),
    Row(
        "round_trip",
        "Task round trip through a handler, p50",
        "ms",
        (Target(TWO_TERMINALS.name, 1),),
        1000,
    ),
    Row(
        "burst",
        "Tasks per second, 300 sent by one request",
        "/s",
        (Target(TWO_TERMINALS.name, 0.7, more=True),),
    ),
    Row("memory", "Memory of all processes (PSS)", "MiB", (Target(TWO_TERMINALS.name, 0.4),)),
    Row("idle", "Idle CPU of all processes, of one core", "%", (Target(TWO_TERMINALS.name, 1),)),
    Row(
        "ping_p50",
        "GET /ping beside 4 CPU-bound tasks, p50",
        "ms",
        (Target(DEFAULT_SWITCHES.name, 1 / 5),),
        1000,
    ),
    Row(
        "ping_p99",
        "GET /ping beside 4 CPU-bound tasks, p99",
        "ms",
        (Target(DEFAULT_SWITCHES.name, 1 / 4),),
        1000,
    ),
    Row(
        "ping_tasks", "These 4 tasks together", "s", (Target(DEFAULT_SWITCHES.name, float("inf")),)
    ),
    Row("sleep", "1,000 tasks of 1 s sleep, 100 threads", "s", (Target(IDEAL, 1.2),)),
)


def table(figures: Figures) -> str:
    """Return the medians as a table in Markdown.

    The last column has run.py's against its targets.
    """
    lines = [
        ["", *(loop.name for loop in LOOPS), "run.py's target"],
        ["---", *(["---:"] * len(LOOPS)), "---"],
    ]
    for row in ROWS:
        if row.name in figures:
            medians = {
                loop: statistics.median(values) for loop, values in figures[row.name].items()
            }
            cells = [
                row.format(medians[loop.name]) if loop.name in medians else "" for loop in LOOPS
            ]
            targets = [
                against(row, medians[OURS.name], medians[target.peer], target)
                for target in row.targets
            ]
            lines.append([row.title, *cells, "; ".join(targets)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def against(row: Row, ours: float, peer: float, target: Target) -> str:
    """Return the ratio to the peer's figure in words, and whether it meets the target."""
    name = (
        target.peer
        if target.peer in {loop.name for loop in LOOPS}
        else f"{target.peer} ({row.format(peer)})"
    )
    ratio = f"{ours / peer:.2f} of {name}"
    if target.factor == float("inf"):
        return ratio
    limit = f"{target.factor:.2f}" + (f" + {row.format(target.extra)}" if target.extra else "")
    bound = target.factor * peer + target.extra
    met = ours >= bound if target.more else ours <= bound
    side = "at least" if target.more else "at most"
    return f"{ratio}, {side} {limit}: {'met' if met else '**missed**'}"


# --- The picture ---

PANELS = ("start", "edit", "stop", "round_trip", "burst", "memory")
WIDTH, PANEL_HEIGHT, MARGIN, LABELS, BARS, BAR = 880, 128, 20, 104, 240, 22
STYLE = """
    :root { color-scheme: light dark }
    text {
        font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif;
        fill: #1f2328
    }
    .title { font-weight: 600 }
    .more { font-weight: 400; fill: #59636e }
    .page { fill: #ffffff; stroke: #d1d9e0 }
    .bar { fill: #afb8c1 }
    .ours { fill: #0969da }
    text.ours { fill: #1f2328; font-weight: 600 }
    @media (prefers-color-scheme: dark) {
        text, text.ours { fill: #f0f6fc }
        .more { fill: #9198a1 }
        .page { fill: #0d1117; stroke: #3d444d }
        .bar { fill: #59636e }
        .ours { fill: #4493f8 }
    }
"""


def picture(figures: Figures) -> str:
    """Return the medians as bars, in SVG.

    It has a background of its own, as it may be seen in light and dark mode.
    """
    rows = [row for row in ROWS if row.name in PANELS and row.name in figures]
    height = MARGIN + -(-len(rows) // 2) * PANEL_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" '
        'role="img" aria-label="run.py compared with its peers; the table below has the figures">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
    ]
    for place, row in enumerate(rows):
        left, top = MARGIN + place % 2 * (WIDTH // 2), MARGIN + place // 2 * PANEL_HEIGHT
        parts += panel(row, figures[row.name], left, top)
    return "\n".join([*parts, "</svg>", ""])


def panel(row: Row, figures: dict[str, list[float]], left: int, top: int) -> list[str]:
    medians = {
        loop.name: statistics.median(figures[loop.name]) for loop in LOOPS if loop.name in figures
    }
    longest = max(figure for figure in medians.values() if figure != NEVER)
    more = "more" if any(target.more for target in row.targets) else "less"
    title = (
        f'<tspan class="title">{escape(row.title)}</tspan>'
        f'<tspan class="more"> · {more} is better</tspan>'
    )
    parts = [f'<text x="{left}" y="{top + 10}">{title}</text>']
    for line, (loop, figure) in enumerate(medians.items()):
        style = "ours" if loop == OURS.name else "bar"
        y = top + 20 + line * BAR
        width = BARS * figure / longest if figure != NEVER else 0
        parts += [
            f'<text class="{style}-name" x="{left}" y="{y + 14}">{escape(loop)}</text>',
            f'<rect class="{style}" x="{left + LABELS}" y="{y + 2}" '
            f'width="{max(width, 1):.0f}" height="15" rx="2"/>',
            f'<text x="{left + LABELS + width + 6:.0f}" y="{y + 14}">{row.format(figure)}</text>',
        ]
    return parts
