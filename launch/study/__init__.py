"""A study: many training runs that share a corpus, its scores and its tokens, from one YAML file.

yaml_lines   YAML whose every value knows its line
samplers     the paper's 22, by name
schema       the file as typed dataclasses, checked
stages       what there is to do, and what needs what; shared work once
pipelines    the datatrove pipeline of each stage
work         one task of a stage, in a process of its own
progress     what is done
local        all of it on one machine
slurm        all of it as jobs that wait for each other
commands     winnow run, winnow status
"""
