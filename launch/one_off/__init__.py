"""Commands for who needs no study: one scorer over one corpus, one cut of it as a dataset, two of them side by side.

scoring    `winnow score`: the stages of a study that one scorer stands on, and no others
selecting  `winnow select`: score, then the tasks of `launch.datasets` in processes
commands   their arguments
"""
