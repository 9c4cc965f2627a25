"""Datasets of chosen documents: the rows of a cut as they stand in the corpus, a card, and a record of how.

settings   what decides a dataset, and the command that repeats it
unfinished a dataset while it is written
rows       the chosen rows into files, in any number of tasks, killed at any time
parts      files of rows
columns    the schema that files of rows have in common
card       the dataset's card
publish    a finished dataset to a folder, an object store or the Hub
"""
