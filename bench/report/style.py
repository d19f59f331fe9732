"""How plots look: drawn by matplotlib once, coloured by the page, light or dark.

A plot is drawn in stand-in colors that nothing else uses, and each is then replaced by the CSS
variable it stands for, so that one SVG serves both color schemes. Text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from edgekit.runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Variables of page.css, by the color that stands for each in a drawing.
INK, MUTED, LINE, SURFACE, ACCENT = "#a10101", "#a10102", "#a10103", "#a10104", "#a10105"
SERIES = ("#a20101", "#a20102", "#a20103", "#a20104", "#a20105", "#a20106", "#a20107")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    SURFACE: "surface",
    ACCENT: "accent",
    **{color: f"series-{index}" for index, color in enumerate(SERIES)},
}
# A picture on its own has no page to take colors from: those of the light scheme.
LIGHT = {
    INK: "#1c2128",
    MUTED: "#57606a",
    LINE: "#d8dde3",
    SURFACE: "#ffffff",
    ACCENT: "#0b5cad",
    SERIES[0]: "#0067a5",
    SERIES[1]: "#b84a00",
    SERIES[2]: "#00795a",
    SERIES[3]: "#a3487f",
    SERIES[4]: "#8a6000",
    SERIES[5]: "#5b57c4",
    SERIES[6]: "#3d4752",
}
FONT_POINTS = 9.5
Tone = Callable[[str], str]

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
_DROPPED = (f"{_SVG}metadata", f"{_SVG}style")
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_LINK = re.compile(r"url\(#([^)]*)\)")
_FAMILY = re.compile(r"font-family: [^;]*;?")
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgekit",
    "font.family": "sans-serif",
    "font.size": FONT_POINTS,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": FONT_POINTS,
    "axes.facecolor": "none",
    "axes.titlesize": FONT_POINTS,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": FONT_POINTS - 1,
    "ytick.labelsize": FONT_POINTS - 1,
}


def color(index: int) -> str:
    """Color of a model, by its place in the list; they come round again."""
    return SERIES[index % len(SERIES)]


def marker(index: int) -> str:
    """Marker of a model, by its place in the list; another one where its color comes round."""
    return MARKERS[(index + index // len(SERIES)) % len(MARKERS)]


def for_page(stand_in: str) -> str:
    """The tone of a drawing whose colors a page will set."""
    return stand_in


def for_picture(stand_in: str) -> str:
    """The tone of a drawing that stands alone."""
    return LIGHT[stand_in]


@contextmanager
def plot_style(tone: Tone = for_page) -> Iterator[None]:
    """Draw in the report's style.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        import matplotlib.figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    settings: Any = {
        key: tone(value) if value in _VARIABLES else value for key, value in _SETTINGS.items()
    }
    with mpl.rc_context(settings):
        yield


def svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an SVG element for a page.

    Args:
        figure: Drawn in `plot_style`.
        name: Sets its ids apart from those of the page's other drawings.
        title: What it shows, for those who cannot see it.
        description: What it says, likewise.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - what matplotlib has just made
    _tidy(root, name)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update(
        {"viewBox": box, "role": "img", "aria-labelledby": f"{name}-title {name}-text"}
    )
    for tag, suffix, text in (("desc", "text", description), ("title", "title", title)):
        element = ElementTree.Element(tag, {"id": f"{name}-{suffix}"})
        element.text = text
        root.insert(0, element)
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(root: ElementTree.Element, name: str) -> None:
    """Drop what a page does not need, part the ids from other drawings', set the variables."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in _DROPPED:
                parent.remove(child)
    used = {link for element in root.iter() for link in _links(element)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.tail = None
        if element.tag not in ("text", "tspan"):
            element.text = None
        found = dict(element.attrib)
        element.attrib.clear()
        for key, value in found.items():
            if key == "id" and value not in used:
                continue
            element.attrib[key.removeprefix(_XLINK)] = _attribute(key, value, name)


def _links(element: ElementTree.Element) -> list[str]:
    targets = _LINK.findall(element.attrib.get("clip-path", ""))
    href = element.attrib.get(f"{_XLINK}href")
    return [*targets, *([href.removeprefix("#")] if href else [])]


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == f"{_XLINK}href":
        return f"#{name}-{value.removeprefix('#')}"
    if key == "clip-path":
        return _LINK.sub(rf"url(#{name}-\1)", value)
    if key == "style":
        value = _FAMILY.sub("", value)
        for stand_in, variable in _VARIABLES.items():
            value = value.replace(stand_in, f"var(--{variable})")
    return " ".join(value.split())


# Outlines of MARKERS in a box of 10 by 10, for legends.
_OUTLINES = (
    '<circle cx="5" cy="5" r="4"/>',
    '<rect x="1.2" y="1.2" width="7.6" height="7.6"/>',
    '<path d="M5 .2 9.8 5 5 9.8 .2 5z"/>',
    '<path d="M5 .8 9.6 9.2H.4z"/>',
    '<path d="M5 9.2 9.6 .8H.4z"/>',
    '<path d="M3.4 .6h3.2v2.8h2.8v3.2H6.6v2.8H3.4V6.6H.6V3.4h2.8z"/>',
    '<path d="M2.6 .6 5 3 7.4 .6 9.4 2.6 7 5 9.4 7.4 7.4 9.4 5 7 2.6 9.4 .6 7.4 3 5 .6 2.6z"/>',
)


def mark_svg(index: int) -> str:
    """A model's marker, for a legend."""
    outline = _OUTLINES[index % len(_OUTLINES)]
    variable = _VARIABLES[color(index)]
    return f'<svg viewBox="0 0 10 10" fill="var(--{variable})" aria-hidden="true">{outline}</svg>'
