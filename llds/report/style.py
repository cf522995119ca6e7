"""Colors and the look of plots, in one place: readable on light and on dark pages, and for color-blind readers."""

from textwrap import wrap

from bokeh.models import PrintfTickFormatter
from bokeh.models.annotations import Legend, Title
from bokeh.plotting import figure

from llds.monitor import Phase

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a63d2", "#7d7d7d")
"""Of lines: those of Okabe and Ito, which color-blind readers tell apart."""
DASHES = ("solid", "dashed", "dotted", "dotdash")
GAINED, LOST = "#0072b2", "#d55e00"
"""Of likelihood."""
PHASE_COLORS: dict[Phase, str] = {
    "healthy": "#ffffff",
    "stagnation": "#ffe08a",
    "decay": "#f7a13c",
    "acceleration": "#d0473b",
    "collapsed": "#6a3d5c",
}
"""From light to dark, so that the order is seen without the hue."""
PLAIN = "#77818b"
"""Text and lines of plots; on white and on near-black alike."""
_LETTERS = 38
"""Of a title's line: as many as a phone has room for."""
_AXIS = 68
"""Pixels left of every plot, so that equal iterations are below each other."""


def styled(plot: figure, title: str, x_label: str, y_label: str) -> None:
    """Give a plot its labels and the look of the page: no background, quiet grid, toolbar under the pointer only."""
    plot.title = Title(
        text="\n".join(wrap(title, _LETTERS)), text_color=PLAIN, text_font_size="13px", text_font="system-ui"
    )
    plot.xaxis.axis_label, plot.yaxis.axis_label = x_label, y_label
    plot.update(min_border_left=_AXIS)
    plot.background_fill_color = None
    plot.border_fill_color = None
    plot.outline_line_color = None
    plot.grid.grid_line_color = PLAIN
    plot.grid.grid_line_alpha = 0.2
    plot.axis.axis_line_color = PLAIN
    plot.axis.major_tick_line_color = PLAIN
    plot.axis.minor_tick_line_color = None
    plot.axis.major_label_text_color = PLAIN
    plot.axis.axis_label_text_color = PLAIN
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_label_text_font_size = "11px"
    plot.axis.axis_label_standoff = 4
    plot.yaxis.formatter = PrintfTickFormatter(format="%.4g")
    for legend in (one for one in plot.above if isinstance(one, Legend)):
        legend.background_fill_alpha = 0.0
        legend.border_line_color = None
        legend.label_text_color = PLAIN
        legend.label_text_font_size = "11px"
        legend.update(padding=0, margin=0)
        legend.glyph_width = 28
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
