"""A study: many training runs that share a corpus, its scores and its tokens, from one YAML file.

yaml_lines        YAML whose every value knows its line
samplers          the paper's 22, by name
schema            what a file says, as typed dataclasses
reading           a file to them, checked; reading_samplers
stages            what there is to do, and what needs what; shared work once
pipelines         the datatrove pipeline of each stage
proxies           models of random weights, built from config
reporting         what winnow report is given
work              one task of a stage, in a process of its own
progress          what is done: a small file that each task writes
status            winnow status
access            whether corpora and models can be reached
local             all of it on one machine
slurm             all of it as jobs that wait for each other; slurm_scripts, slurm_queue
ray               all of it on a Ray cluster
costs             what stages take, as arithmetic; shapes of the models that score
works             costs of this study's stages
plan              all of it, and what was measured in its place; plan_tables
commands          winnow run, winnow status
"""
