"""Do scores mean anything? Score stores beside labels that people, or a better judge, gave to some documents.

labels       a file of labels -> one label a document
documents    labels and score stores -> the documents that have both, with their length and stratum
agreement    AUC or Spearman, within strata and with length held fixed, with paired bootstrap intervals
calibration  scores -> the mean label of such documents, a monotone fit for each stratum
store        a score store -> its calibrated store

`evaluate_suite.report.trust` makes sentences, tables and a page of it; docs/trust.md explains every number.
"""
