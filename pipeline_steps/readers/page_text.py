"""The text of web pages."""

from __future__ import annotations

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.extractors.base import ExtractorSandbox
from datatrove.utils.logging import logger
from datatrove.utils.typeshelper import StatHints

from pipeline_steps.errors import CorpusError


_EXTRACTION = 60.0  # seconds that a page may take: thousands of times what one does


class PageText(Trafilatura):
    """Trafilatura's text of each page, by the page alone: datatrove's own step forgets pages on a busy machine, and
    takes paragraphs out that the same process has met before.

    Raises:
        CorpusError: a page takes a minute, or ends the process that extracts.
    """

    def __init__(self) -> None:
        super().__init__(timeout=_EXTRACTION, deduplicate=False)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield the pages that have text."""
        import trafilatura  # noqa: F401  here, so that the process that extracts has it already

        logger.disable("datatrove.pipeline.extractors")  # what its sandbox says at its end hides what went wrong
        with ExtractorSandbox(self.timeout) as sandbox:
            for document in data:
                self.stat_update(StatHints.total)
                try:
                    with self.track_time():
                        document.text = sandbox.process_document(document.text, self._extract)
                except (TimeoutError, EOFError) as error:
                    raise CorpusError(
                        f"{document.metadata['file_path']}, page {document.id}: its text cannot be extracted "
                        f"({error}): leave that page out"
                    ) from error
                self.stat_update(StatHints.forwarded if document.text else StatHints.dropped)
                if document.text:
                    self.update_doc_stats(document)
                    yield document

    def _extract(self, text: str) -> str | None:
        try:
            return self.extract(text)
        except MemoryError:  # of the machine, not of the page: ends this process, and is told with the page's name
            raise
        except Exception:  # whatever broken HTML does to lxml: such a page has no text
            return None
