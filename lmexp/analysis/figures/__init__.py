"""The report's figures, each a pure function of an :class:`~lmexp.analysis.analyse.Analysis`.

They return None where there is nothing to draw.
"""

from lmexp.analysis.figures.diagnostics import diagnostics_plot
from lmexp.analysis.figures.drift import drift_plot
from lmexp.analysis.figures.estimation import estimation_plot
from lmexp.analysis.figures.factors import interaction_plot, other_interactions_plot, ratios_plot, speed_up_plot
from lmexp.analysis.figures.forest import forest_plot
from lmexp.analysis.figures.launches import traces_plot
from lmexp.analysis.figures.sweep import sweep_plot
from lmexp.analysis.figures.training import gap_curves, loss_curves

__all__ = [
    "diagnostics_plot",
    "drift_plot",
    "estimation_plot",
    "forest_plot",
    "gap_curves",
    "interaction_plot",
    "loss_curves",
    "other_interactions_plot",
    "ratios_plot",
    "speed_up_plot",
    "sweep_plot",
    "traces_plot",
]
