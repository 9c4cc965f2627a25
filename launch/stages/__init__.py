"""What a study has to do, as stages: each knows its inputs, its tasks, its output and how one task is run.

    Corpus ─► TokenStage ──────────────────────────────────┐
       └─► Embeddings ─► Sketch, Clusters ─► Scores ─► Selected ─► Training ─► Measurement ─► Report
                         DSIRModel, QualityModel  └─► Rows ─► Dataset

base         what every stage is; a pipeline of datatrove as a stage
corpora      corpora, dealt or from outside the study, and their tokens
foundations  what scorers stand on
scores       score stores and what is selected from them
joins        a score store of published annotations
runs         trainings
measurements what is measured of them
report       the report
datasets     the chosen documents as a dataset
"""
