"""Commands for who needs no study: one scorer over one corpus, one cut of it as a dataset, two of them side by side.

scoring    `winnow score`: the stages of a study that one scorer stands on, and no others
selecting  `winnow select`: score, cut, write, publish
rows       the chosen rows into files, in processes of their own
parts      files of rows, and the schema they have in common
card       the dataset's card
publishing a finished dataset to a folder, an object store or the Hub
comparing  `winnow compare`: overlap, rank agreement, documents
"""
