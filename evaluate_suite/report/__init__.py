"""The report of a study, large or small: tables, figures and documents from what its runs have written.

points            results.jsonl, one or many -> checkpoints, a score per measure, over seeds
scores            a measure over seeds, and its difference from another's
comparisons       every sampler against one baseline, with the noise between trainings
outcomes          over-scaling and effective model size of each
decision          which tasks tell recipes apart, and which sizes agree
tables            Table 1, its terms, costs, ranks, tasks; `table_data` renders them
tables_corpus     what selections share, and what they hold of evaluation sets
figures_runs      a measure against the rate and against tokens
figures_tasks     signal and noise
figures_corpus    scores, agreement of scorers, costs; `style` says how all figures look
figures_schematic selections between coverage and quality; epochs of one token budget
gallery           every figure that there are numbers for
documents         what scorers like, agree and disagree on
verdicts          what the numbers support, in sentences
page              all of it as one HTML file, or Markdown for a model card
trust             scores beside labels, a page of its own
write             the way in: settings, and what they name
"""

from evaluate_suite.report.write import ReportSettings, terminal_table, write_report


__all__ = ["ReportSettings", "terminal_table", "write_report"]
