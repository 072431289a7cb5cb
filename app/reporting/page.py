"""Frame of the HTML reports: one page that needs no other file and no network; and the look of its figures."""

import functools
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from plotly.offline import get_plotlyjs

if TYPE_CHECKING:  # which takes half a second to import, and not every page needs it
    from plotly.graph_objects import Figure

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
    return _template(template, tuple(filters.items())).render(
        **content,
        drawn=drawn,
        nonce=secrets.token_urlsafe(16),  # no text from a file could run, even if it got through
        plotly=_plotly(),
    )


@functools.cache  # compiling it takes four times as long as the rest of a page
def _template(path: Path, filters: tuple[tuple[str, Callable], ...]) -> Template:
    environment = Environment(
        loader=FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters)
    return environment.get_template(path.name)


def figure_json(figure: "Figure", height: int, x: str | None, y: str | None) -> FigureJson:
    """Return a figure without a title and a background of its own, so that it suits the page in light and dark.

    Args:
        figure: The figure, which is changed.
        height: Height in pixels.
        x: Title of the x axis, or None.
        y: Title of the y axis, or None.
    """
    figure.update_layout(template="none", title=None, width=None, **_layout(height))
    figure.update_xaxes(**_axis(x))
    figure.update_yaxes(**_axis(y))
    return json.loads(figure.to_json())


def traces_json(traces: Sequence[Mapping[str, Any]], height: int, x: str | None, y: str | None) -> FigureJson:
    """Return a figure with the look of ``figure_json``, from traces as plotly.js takes them.

    Nothing checks them, and it takes a hundredth of the time: for a page that is written while a run trains.

    Args:
        traces: The traces; None, not NaN, for values that are missing.
        height: Height in pixels.
        x: Title of the x axis, or None.
        y: Title of the y axis, or None.
    """
    return {"data": list(traces), "layout": {**_layout(height), "xaxis": _axis(x), "yaxis": _axis(y)}}


def _layout(height: int) -> dict[str, Any]:
    return {
        "height": height,
        "showlegend": False,
        "paper_bgcolor": _TRANSPARENT,
        "plot_bgcolor": _TRANSPARENT,
        "margin": {"l": 56, "r": 36, "t": 16, "b": 48},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#333"},
    }


def _axis(title: str | None) -> dict[str, Any]:
    look = {"automargin": True, "gridcolor": _GRID, "zerolinecolor": _GRID, "exponentformat": "e"}
    return {"title": {"text": title, "font": {"size": 13}}, **look}


@functools.cache  # a run writes its page after every epoch
def _plotly() -> str:
    return get_plotlyjs()
