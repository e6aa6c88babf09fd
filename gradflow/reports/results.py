"""What an experiment or a sweep came to: table, verdict and figures, to look at and to go on with."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from gradflow import html_table
from gradflow.claims.verdict import Verdict
from gradflow.plain_text import plain
from gradflow.reports.summary import groups


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """What lies in a results folder after its runs.

    Attributes:
        folder: Where tables, figures and the record of each run are.
        table: The long table, settings joined, as `gradflow.load` reads it.
        figures: By name, each a matplotlib figure that a notebook shows by itself.
        verdict: Of an experiment; None after a sweep, which claims nothing.
        failures: Why runs failed, by the name of their folder in `runs/`; what the others recorded is in the table.
        notes: What is to be known of the figures, a line each: such as one that cannot be drawn.
    """

    folder: Path
    table: pd.DataFrame
    figures: dict[str, Figure]
    verdict: Verdict | None = None
    failures: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        claimed = f"{self.verdict.summary}; " if self.verdict else ""
        return f"<Results {claimed}{self._summary()}>"

    def _summary(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        figures = f"figures {', '.join(self.figures)}" if self.figures else "no figures"
        runs = self.table["run"].nunique()
        return plain(f"{runs} run{'s' * (runs != 1)}{failed}; {figures}; in {self.folder}")

    def _repr_html_(self) -> str:
        """The verdict, the groups of runs with their final errors, and where the rest is, as a notebook shows it."""
        heading, *rows = groups(self.table)
        verdict = self.verdict._repr_html_() if self.verdict else ""
        return verdict + html_table.table(heading, rows, self._summary())
