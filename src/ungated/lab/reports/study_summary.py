"""Several studies as one table, as the papers' tables are: a row a line of each, measured beside published."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from ungated.lab.reports.kept_studies import StudyReport, load_studies
from ungated.lab.reports.metrics import metric_named
from ungated.lab.reports.points import SELECTIONS, Point, by_label, selected
from ungated.lab.reports.study_figures import dataset_of, study_points
from ungated.lab.reports.study_tables import NUMBERS, numbers, published_value, study_section
from ungated.lab.reports.tables import Table

#: Kinds of study that choose a setting among many; of the others every setting is a row.
_SELECTING = ("tpe", "grid", "sweep")


def summary_table(reports: Sequence[StudyReport]) -> Table:
    """data set, cell or variant, selection, numbers, published test value; of every study with a finished run."""
    rows = []
    for report in reports:
        metric = report.outcome.metric
        if metric is None:
            continue
        words = metric_named(metric)
        for label, selection, point in _lines(report, metric):
            known = published_value(report, point) if selection != SELECTIONS["valid"] else None
            published = "" if known is None else words.written(known)
            rows.append([dataset_of(report.outcome), words.label, label, selection, *numbers(point, words), published])
    columns = ["data set", "metric", "of", "selection", *NUMBERS, "published test"]
    return Table(columns, rows, left=("metric", "of", "selection"))


def _lines(report: StudyReport, metric: str) -> list[tuple[str, str, Point]]:
    points = study_points(report)
    if report.outcome.definition.kind not in _SELECTING:
        return [(point.label, "", point) for point in points]
    lines = []
    for label, group in by_label(points).items():
        for split, selection in SELECTIONS.items():
            best = selected(group, split, metric)
            if best is not None:
                lines.append((label, selection, best))
    return lines


def studies_page(results: str | Path) -> str:
    """The text of RESULTS/studies/README.md: every kept study, its figures from the same folder."""
    head = "# Studies\n\nWritten by `ungated report STUDY --collect` from the files of this folder.\n\n"
    return head + reports_markdown(list(load_studies(results).values()))


def reports_markdown(reports: Sequence[StudyReport], figures: str = "") -> str:
    """A file's text: each study's section, and before the studies of one reproduction their table together."""
    parts = []
    for group, alike in groupby(reports, key=lambda report: report.group):
        together = list(alike)
        if group and len(together) > 1:
            parts.append(f"# {group}\n\n**{together[0].remark}**\n\n{summary_table(together).markdown()}")
        parts += [study_section(report).markdown(figures=figures) for report in together]
    return "\n\n".join(parts) + "\n"
