"""Every error a user can meet: catch WinnowError to catch them all.

Messages name what was asked, what was found, the file and document, and the next action.
"""


class WinnowError(Exception):
    """Base of every error this project raises on purpose."""


class CorpusError(WinnowError, ValueError):
    """A source file is empty, unreadable, or holds a document without text: mend or exclude the named file."""


class StoreMismatch(WinnowError, ValueError):
    """An artefact was made from other inputs or another configuration: use another folder, or the same settings."""


class StoreIncomplete(WinnowError, ValueError):
    """A store does not cover what was asked of it: run the step that fills it to the end."""


class StoreDamaged(WinnowError, ValueError):
    """A file of a store is not what was written: delete it and run the step that wrote it again."""


class MissingScore(WinnowError, KeyError):
    """A document has no score or its text has changed since it was scored: score this corpus first."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the message's repr


class InvalidScore(WinnowError, ValueError):
    """A scorer returned NaN or infinity for the named document."""


class InvalidEmbedding(WinnowError, ValueError):
    """An embedding is not finite, zero, too long, or of another dimension than the rest."""


class InvalidCut(WinnowError, ValueError):
    """The asked number of documents or tokens cannot be selected from this store."""


class InvalidStudy(WinnowError, ValueError):
    """A study file says something that cannot be run: the message names the line."""


class ModelError(WinnowError, ValueError):
    """A model or tokenizer cannot do what the step needs of it."""


class StageFailed(Exception):
    """A process that was started died: the message says how, and where its log is. It may not be the user's fault."""
