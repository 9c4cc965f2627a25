"""The commands of `winnow`: typed functions whose signatures are their flags and whose docstrings are their help.

studies    run, status, plan, report, schema, quickstart
select     score, select
join       join
look       compare, inspect, coverage
trust      trust
training   tokenize, materialise, pretrain, verify-resume, evaluate
arguments  types of flags that several commands have
mistakes   mistakes in a command line as one sentence
config_file  the file of --config

A module's top imports nothing heavy: `winnow COMMAND --help` must show at once, and without any extra installed.
"""
