"""Figures. Each function returns a matplotlib Figure; `style` turns one into files, or into SVG of a page's colours.

one_run      learning curves and scores of a quickstart
quality      metric against rate (the paper's Fig. 4, 10 - 16)
efficiency   metric against tokens (Fig. 5, 17 - 30)
scorers      how scorers differ (Fig. 6, 7, 9)
cost         accelerator hours with and without scoring (the extended version's Table 2)
"""

from evaluate_suite.figures.one_run import Curve, learning_curves, score_distribution


__all__ = ["Curve", "learning_curves", "score_distribution"]
