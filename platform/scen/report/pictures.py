"""Figures as pictures inside the page."""

from base64 import b64encode
from collections.abc import Iterable
from io import BytesIO

import matplotlib as mpl
from matplotlib.figure import Figure

from scen.report.markup import Markup, tag

_MOST_LINES = 500  # a drawing of more is larger than its pixels
_CSS_DPI = 96
_WIDE = 720  # CSS pixels; a wider one has a line of its own


def picture(figure: Figure, alt: str, caption: str) -> Markup:
    """A figure as SVG, or as PNG where it has very many lines. `alt` tells those who cannot see it
    what is to be seen. The same figure gives the same bytes."""
    lines = sum(len(axes.lines) for axes in figure.axes)
    kind, media = ("png", "image/png") if lines > _MOST_LINES else ("svg", "image/svg+xml")
    buffer = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "scen"}):
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, metadata=metadata)
    width, height = (round(_CSS_DPI * inches) for inches in figure.get_size_inches())
    data = f"data:{media};base64,{b64encode(buffer.getvalue()).decode()}"
    image = tag("img", src=data, alt=alt, width=str(width), height=str(height))
    parts = image, tag("figcaption", caption)
    return tag("figure", *parts, class_="wide") if width > _WIDE else tag("figure", *parts)


def gallery(pictures: Iterable[Markup]) -> Markup:
    """Pictures side by side where there is room."""
    return tag("div", *pictures, class_="pictures")
