"""Frame of the HTML reports: one page that needs no other file and no network; and the look of its figures."""

import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

FigureJson = dict[str, Any]  # "data" and "layout" of a plotly figure

_GRID = "rgba(128, 128, 128, 0.25)"
_TRANSPARENT = "rgba(0, 0, 0, 0)"


def render_page(
    template: Path, content: Mapping[str, Any], drawn: Mapping[str, FigureJson], filters: Mapping[str, Callable]
) -> str:
    """Return a page as HTML, with everything in ``content`` escaped.

    Args:
        template: Jinja template that extends ``page.html.jinja``.
        content: Values of its variables.
        drawn: Figures by the id of the element that they are drawn into.
        filters: Filters of the template.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template.name).render(
        **content,
        drawn=drawn,
        nonce=secrets.token_urlsafe(16),  # no text from a file could run, even if it got through
        plotly=get_plotlyjs(),
    )


def figure_json(figure: Figure, height: int, x: str | None, y: str | None) -> FigureJson:
    """Return a figure without a title and a background of its own, so that it suits the page in light and dark.

    Args:
        figure: The figure, which is changed.
        height: Height in pixels.
        x: Title of the x axis, or None.
        y: Title of the y axis, or None.
    """
    figure.update_layout(
        template="none",
        title=None,
        width=None,
        height=height,
        showlegend=False,
        paper_bgcolor=_TRANSPARENT,
        plot_bgcolor=_TRANSPARENT,
        margin={"l": 56, "r": 36, "t": 16, "b": 48},
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#333"},
    )
    look = {"automargin": True, "gridcolor": _GRID, "zerolinecolor": _GRID, "exponentformat": "e"}
    figure.update_xaxes(title={"text": x, "font": {"size": 13}}, **look)
    figure.update_yaxes(title={"text": y, "font": {"size": 13}}, **look)
    return json.loads(figure.to_json())
