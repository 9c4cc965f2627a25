"""A scorer that needs no model, for tests of everything around scores."""

from datatrove.pipeline.readers import JsonlReader

from pipeline_steps import BaseScorer


class WordCountScorer(BaseScorer):
    """Number of words, plus a little of the window's size: shows if windows depended on tasks."""

    name = "word count"
    calls = 0

    def __init__(self, scores, salt=0, **kwargs):
        super().__init__(scores, "words", **kwargs)
        self.salt = salt

    def fingerprint(self):
        return {"scorer": "WordCountScorer", "salt": self.salt}

    def score(self, docs):
        type(self).calls += len(docs)
        return [len(doc.text.split()) + len(docs) / 1000 for doc in docs]


def columns_of(scorer, docs):
    """Columns of documents, without a store."""
    return scorer.compute(docs, scorer.prepare(docs))


def score(corpus, scores, tasks=1, **kwargs):
    """Run every task in this process; return the documents that came out."""
    docs = []
    for rank in range(tasks):
        reader = JsonlReader(str(corpus))
        docs += WordCountScorer(str(scores), window_size=8, **kwargs).run(reader.run(None, rank, tasks), rank, tasks)
    return docs
