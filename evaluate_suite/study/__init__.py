"""A study: results of many runs, and what the paper shows of them.

points       results.jsonl, one or many -> checkpoints, a score per measure (`scores`), over seeds
outcomes     over-scaling and effective model size of each
tables       Table 1, its terms, costs, ranks, overlaps, tasks; `table_data` renders them
documents    what scorers agree and disagree on (App. E)
gallery      every figure of `evaluate_suite.figures` that there are numbers for
verdicts     what the numbers support, in sentences
page         all of it as one HTML file, or Markdown for a model card
"""
