"""A report as one HTML page: pictures inside, no script, nothing from elsewhere. Called by `Report.to_html`."""

from __future__ import annotations

import math
from importlib.resources import files
from typing import TYPE_CHECKING

import jinja2

import ncbook
from ncbook.collapse.pairs import cdnv_matrix_of

from . import figures, words
from .measure import HARDEST

if TYPE_CHECKING:
    from .reports import Report

_IN_MATRIX = 40  # classes drawn: the hardest ones
_BOUND_NAMES = {
    "cdnv": "from the CDNV, in closed form (B1)",
    "quadratic": "from the CDNV, the best known (B5)",
    "directional": "directional, with fourth moments (B3)",
}


def render(report: Report) -> str:
    """The page."""
    strict = dict(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment = jinja2.Environment(autoescape=True, **strict)  # names of classes are anybody's
    environment.filters |= {"number": words.shown, "interval": _interval, "percent": _percent}
    template = environment.from_string((files("ncbook.report") / "page.html").read_text(encoding="utf-8"))
    pictures = _pictures(report)
    return template.render(
        about=report.about,
        notes=report.notes,
        version=ncbook.__version__,
        numbers=_numbers(report),
        accuracies=figures.accuracies(report.summary) if len(report.accuracies) else None,
        matrix=_matrix(report),
        in_matrix=min(_IN_MATRIX, len(report.classes)),
        pairs=report.pairs.head(HARDEST).to_dict("records"),
        classes=report.classes.head(HARDEST).to_dict("records"),
        pictures=pictures,
        bounds=report.bounds.assign(name=report.bounds["bound"].map(_BOUND_NAMES)).to_dict("records"),
        bounds_figure=figures.bounds(report.bounds),
        growth={along: figures.growth(report.growth, along) for along in report.growth["along"].unique()},
        growth_words=_growth_words(report),
        layers=report.layers.to_dict("records"),
        layers_figure=figures.layers(report.layers) if len(report.layers) else None,
        random=report.about["weights"].startswith("random"),
    )


def _numbers(report: Report) -> list[dict]:
    rows = []
    for row in report.summary.to_dict("records"):
        grade, _ = words.verdict(row["metric"], row["value"], row["low"], row["high"])
        rows.append({**row, "title": words.meaning(row["metric"]).title, "grade": grade})
    return rows


def _interval(row: dict) -> str:
    if math.isnan(row["low"]) or math.isnan(row["high"]):
        return "no interval"
    return f"{words.shown(row['low'])} to {words.shown(row['high'])}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.3g} %"


def _pictures(report: Report) -> dict[str, str]:
    """A strip of pictures of each class that the page shows."""
    found = report.gathered
    if found.pictures is None:
        return {}
    pairs = report.pairs.head(HARDEST)
    wanted = {*pairs["class_a"], *pairs["class_b"], *report.classes["class"].head(HARDEST)}
    places = [k for k, name in enumerate(found.class_names) if name in wanted]
    return {found.class_names[k]: figures.row_of_pictures(found.pictures[found.picture_index == k]) for k in places}


def _matrix(report: Report) -> str:
    """The matrix of the hardest classes by CDNV, next to those they are near to."""
    names = report.gathered.class_names
    matrix = cdnv_matrix_of(report.gathered.moments)
    hardest = matrix.nanmean(1).argsort(descending=True)[:_IN_MATRIX]
    return figures.matrix(matrix[hardest][:, hardest], [names[int(k)] for k in hardest])


def _growth_words(report: Report) -> list[str]:
    """What would more data bring? One sentence for each direction, from the last two points of each."""
    found = []
    for along, what, name, why in (
        ("samples", "images per class", "the CDNV that is measured", "; a part of that is the bias of few images"),
        ("shots", "labeled images per class", "accuracy", ""),
    ):
        rows = report.growth[(report.growth["along"] == along) & (report.growth["metric"] != "cdnv_debiased")]
        if len(rows) > 1:
            before, last = rows.iloc[-2], rows.iloc[-1]
            found.append(
                f"From {before['count']} to {last['count']} {what} {name} goes from {words.shown(before['value'])} to "
                f"{words.shown(last['value'])}{why}."
            )
    rows = report.growth[(report.growth["along"] == "classes")].dropna(subset=["low"])
    if len(rows) > 1:
        widths = (rows["high"] - rows["low"]).to_numpy() / 2
        found.append(
            "More classes of the same kind do not move the CDNV, an average over pairs, but narrow its interval: ± "
            f"{words.shown(widths[0])} with {rows['count'].iloc[0]} classes, ± {words.shown(widths[-1])} with "
            f"{rows['count'].iloc[-1]}."
        )
    return found
