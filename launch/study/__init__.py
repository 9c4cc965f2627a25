"""A study: many training runs that share a corpus, its scores and its tokens, from one YAML file.

yaml_lines   YAML whose every value knows its line
samplers     the paper's 22, by name
schema       the file as typed dataclasses, checked
"""
