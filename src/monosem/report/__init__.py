"""Records become tables, figures and one page; nothing is trained."""

from typing import TYPE_CHECKING

from monosem.base.face import show

if TYPE_CHECKING:
    from monosem.report.figures import recovery_figure as recovery_figure
    from monosem.report.figures import similarity_figure as similarity_figure
    from monosem.report.figures import tau_figure as tau_figure
    from monosem.report.interval import Interval as Interval
    from monosem.report.interval import interval as interval
    from monosem.report.interval import interval_of as interval_of
    from monosem.report.interval import paired as paired
    from monosem.report.markdown import fill as fill
    from monosem.report.markdown import table as table
    from monosem.report.style import BLUE as BLUE
    from monosem.report.style import GREEN as GREEN
    from monosem.report.style import GREY as GREY
    from monosem.report.style import INK as INK
    from monosem.report.style import ORANGE as ORANGE
    from monosem.report.style import PALETTE as PALETTE
    from monosem.report.style import RED as RED
    from monosem.report.style import grid_of_axes as grid_of_axes
    from monosem.report.style import panels as panels
    from monosem.report.style import plain_axes as plain_axes
    from monosem.report.style import styles as styles
    from monosem.report.style import tidy as tidy
    from monosem.report.style import to_svg as to_svg
    from monosem.report.style import write_figure as write_figure
    from monosem.report.summary import HEADLINE as HEADLINE
    from monosem.report.summary import Arm as Arm
    from monosem.report.summary import Line as Line
    from monosem.report.summary import Record as Record
    from monosem.report.summary import Section as Section
    from monosem.report.summary import sections as sections

show(__name__, guards=False)
