"""What a study or a training takes, worked out before anything is started: `winnow plan`.

corpus_size  documents and tokens of a corpus: as stored, as given, or counted
works        operations, core seconds and bytes of each stage, by arithmetic
plan         hours of a study, measured where tasks have been done; and of a single training
hardware     the accelerators that a plan is for
tables       both as text
"""
