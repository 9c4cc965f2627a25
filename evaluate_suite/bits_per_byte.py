"""Bits per byte of held-out text: what a model needs to write a text down, whatever its tokenizer.

A causal model predicts every token of a document from those before it, the first from BOS or EOS; the end of the
document is not predicted. A T5 has no likelihood of a text: it predicts spans of which it sees both sides, and its
*bits per masked byte* are a metric of their own, in which sentinels and EOS count, since they say where spans end.

A domain's value is the ratio of two sums over its documents, which are the units of the bootstrap; the mean over
domains counts all alike. Bytes are those of the text that decoding the tokens gives back, which for most tokenizers is
the text itself. Shapes: N documents, R resamples.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datatrove.utils.logging import logger
from tqdm import tqdm

from evaluate_suite.bootstrap import Estimate, interval, resampled_ratios
from evaluate_suite.checkpoint import Checkpoint
from evaluate_suite.domains import Domain, is_watched
from evaluate_suite.results import BITS, DOMAIN, MACRO, ResultRow
from evaluate_suite.text_windows import masked_windows, rolling_windows
from evaluate_suite.units import once, unit_file
from pipeline_steps import __version__
from pipeline_steps.engines.likelihoods import CAUSAL_WINDOW, T5_WINDOW, CausalLikelihood, InputAndTarget, T5Likelihood
from pipeline_steps.engines.models import load_config, load_tokenizer, load_weights, pick_device
from pipeline_steps.errors import CorpusError, InvalidCut, ModelError
from pipeline_steps.stores.files import read_json
from train.objectives import SpanCorruption
from train.tokenizers import TextTokenizer


COVERAGE, UNKNOWN = "coverage", "unknown_per_1000_tokens"  # what the tokenizer loses of the text
# Beyond these, the bits describe so much less than the text that those of other tokenizers do not compare. The
# embedded T5 tokenizer crosses both on Wikipedia (0.956, 25) and none on C4 (0.999, 0.7)
_LEAST_COVERAGE, _MOST_UNKNOWN = 0.995, 1.0
_CHARACTERS = 1 << 19  # of the documents between two steps of the progress bar: some batches of a GPU
Likelihood = CausalLikelihood | T5Likelihood
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,80}")  # names that can be those of files


@dataclass(frozen=True)
class Windows:
    """The windows that documents are cut into.

    Attributes:
        length: tokens of the model's input. None for the length of its training; of other models, the positions that
            they have, at most 4,096, and 512 for a T5.
        overlap: whether half of each further window of a causal model is context only.
        seed: seed of a T5's masks.

    Raises:
        InvalidCut: they would be empty.
    """

    length: int | None = None
    overlap: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise InvalidCut(f"windows cannot have {self.length} tokens: give 1 or more")


class DomainModel:
    """A checkpoint that is asked for the bits of texts.

    Args:
        checkpoint: a causal model or a T5.
        windows: how documents are cut.

    Attributes:
        is_causal: whether it is a causal model.
        window: tokens of its input.

    Raises:
        InvalidCut: the model cannot take such windows.
        ModelError: its configuration or its tokenizer cannot be loaded.
    """

    def __init__(self, checkpoint: Checkpoint, windows: Windows) -> None:
        self.checkpoint, self.windows = checkpoint, windows
        self._config = load_config(checkpoint.model, checkpoint.revision)
        self.is_causal = not self._config.is_encoder_decoder
        positions = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        self.window = windows.length or self._usual_window(positions)
        if self.is_causal and positions and self.window > positions:
            raise InvalidCut(
                f"windows of {self.window:,} tokens do not fit {checkpoint.model}, which has {positions:,} positions: "
                "give a smaller --window"
            )
        self._tokenizer = TextTokenizer(checkpoint.model, checkpoint.revision)
        last, sentinels = self._tokenizer.vocab_size - 1, self._tokenizer.sentinels
        self._corruption = (
            None if self.is_causal else SpanCorruption(self.window, last, sentinels, self._tokenizer.eos)
        )

    @property
    def metric(self) -> str:
        """Return the name of the metric."""
        of_causal, of_t5 = BITS
        return of_causal if self.is_causal else of_t5

    @property
    def made(self) -> dict[str, Any]:
        """Return everything that the bits of a text depend on."""
        own = {"overlap": self.windows.overlap} if self.is_causal else {"seed": self.windows.seed}
        return self.checkpoint.identity | {"metric": self.metric, "window": self.window} | own

    def load(self) -> Likelihood:
        """Load the weights, in float32. Raises ModelError if the model is no T5 and sees what it predicts."""
        from transformers import AutoModelForCausalLM

        from train.checkpoints import load_checkpoint, load_pretrained

        name, revision, device = self.checkpoint.model, self.checkpoint.revision, pick_device()
        tokenizer = load_tokenizer(name, revision)
        if not self.is_causal:
            return T5Likelihood(load_pretrained(name, revision).to(device).eval(), tokenizer, name)
        if Path(name, "state.json").exists():
            model: Any = load_checkpoint(Path(name))[0]
        else:
            model = load_weights(AutoModelForCausalLM, name, revision, dtype="float32")
        likelihood = CausalLikelihood(model.to(device).eval(), tokenizer, name)
        ends = [([self._first, last], [0, -100]) for last in (1, 2)]  # what comes last must not change the first
        if not math.isclose(*(float(likelihood.nll([one])[0]) for one in ends), rel_tol=1e-4):
            raise ModelError(f"{name} sees what comes after a token that it predicts: give a causal model, or a T5")
        return likelihood

    def measure(self, texts: Sequence[str], likelihood: Likelihood, bar: Any) -> dict[str, list[float] | list[int]]:
        """Return lists with a value for each document.

        nats are of `bytes` of the text, of T5s those that are masked; of the whole text there are `original` bytes,
        `decoded` bytes that come back, `tokens`, and those of them that are `unknown`.
        """
        parts = []
        for part in _parts(texts):
            parts.append(self._measure(part, likelihood))
            bar.update(len(part))
        return {name: [value for part in parts for value in part[name]] for name in parts[0]}

    def _usual_window(self, positions: int | None) -> int:
        resolved = Path(self.checkpoint.model).parent.parent / "resolved.json"
        if self.checkpoint.state and resolved.exists():
            return int(read_json(str(resolved))["input_length"])
        return min(positions or CAUSAL_WINDOW, CAUSAL_WINDOW) if self.is_causal else T5_WINDOW

    def _measure(self, texts: Sequence[str], likelihood: Likelihood) -> dict[str, list[Any]]:
        tokenizer = self._tokenizer
        ids_N = tokenizer.encode(texts)
        decoded = [len(tokenizer.decode(ids).encode()) for ids in ids_N]
        asked_N, bytes_N = zip(*map(self._ask, ids_N, decoded), strict=True)
        owner = np.repeat(np.arange(len(texts)), [len(asked) for asked in asked_N])
        nats = np.zeros(len(texts))
        if owner.size:
            np.add.at(nats, owner, likelihood.nll([one for asked in asked_N for one in asked]))
        return {
            "nats": nats.tolist(),
            "bytes": list(bytes_N),
            "original": [len(text.encode()) for text in texts],
            "decoded": decoded,
            "tokens": [len(ids) for ids in ids_N],
            "unknown": [int(np.count_nonzero(ids == tokenizer.unknown)) for ids in ids_N],
        }

    def _ask(self, ids: np.ndarray, decoded: int) -> tuple[list[InputAndTarget], int]:
        """Return what the model is asked about a document, and the bytes that its answers write."""
        if self._corruption is None:
            new = -(-self.window // 2) if self.windows.overlap else self.window
            return rolling_windows(ids, self._first, self.window, new), decoded
        asked, masked = masked_windows(ids, self._corruption, self.windows.seed)
        return asked, int(self._tokenizer.bytes_by_token(ids)[masked].sum())

    @property
    def _first(self) -> int:
        """The id that the first token is predicted from: BOS, or EOS where there is none.

        A model whose configuration says that its BOS is EOS, as those of `train.pretrain` do, has never seen another
        BOS that its tokenizer may have.
        """
        bos, eos = self._tokenizer.bos, self._tokenizer.eos
        return eos if bos is None or self._config.get_text_config().bos_token_id == eos else bos


def domain_rows(model: DomainModel, domains: Sequence[Domain], folder: Path) -> Iterator[tuple[str, list[ResultRow]]]:
    """Yield the rows of a model for each corpus, which may have several domains, and for the mean over all domains.

    What is in the cache is not measured again, nor are the weights loaded for it.

    Args:
        model: the model.
        domains: the domains, those of a corpus one after the other.
        folder: the cache of what was measured.

    Raises:
        CorpusError: of the text of a domain the tokenizer keeps nothing.
    """
    load = functools.cache(model.load)
    found, resampled = dict[str, _Measured](), list[np.ndarray]()
    for corpus, some in groupby(domains, key=lambda domain: domain.name.partition("/")[0]):
        group = list(some)
        total = sum(len(domain.texts) for domain in group)
        with tqdm(total=total, desc=corpus, unit=" documents", leave=False, disable=not is_watched()) as bar:
            for domain in group:
                found[domain.name] = _Measured(_once(model, domain, load, folder, bar))
                resampled.append(found[domain.name].resampled(domain.name))
        done = zip(group, resampled[-len(group) :], strict=True)
        rows = [row for domain, ratio_R in done for row in _rows(model, domain, found[domain.name], ratio_R)]
        yield corpus if len(group) == 1 else f"{corpus}, {len(group):,} domains", rows
    if lossy := {name: one for name, one in found.items() if not one.is_kept}:
        worst = min(lossy, key=lambda name: lossy[name].coverage)
        logger.warning(
            f"the tokenizer of {model.checkpoint.sampler} loses text of {len(lossy):,} of {len(found):,} domains: of "
            f"{worst} it keeps {100 * lossy[worst].coverage:.1f} % of the bytes, and {lossy[worst].unknown:.1f} of "
            "1,000 tokens are unknown; compare these bits with those of the same tokenizer only"
        )
    value, n = np.mean([one.value for one in found.values()]), sum(one.documents for one in found.values())
    harness = _harness(model, not lossy, f", mean of {len(found):,} domains")
    yield MACRO, [_row(model, MACRO, model.metric, interval(float(value), np.mean(resampled, axis=0)), n, harness)]


def domain_file(folder: Path, checkpoint: Checkpoint, name: str) -> Path:
    """Return the file in a cache of what was measured of a checkpoint in a domain."""
    if not _PLAIN.fullmatch(name):
        name = f"{re.sub('[^A-Za-z0-9._-]+', '-', name)[:80]}-{xxhash.xxh3_64_hexdigest(name.encode())}"
    return unit_file(folder, checkpoint.sampler, checkpoint.name, f"{DOMAIN}{name}")


class _Measured:
    """The result of `DomainModel.measure` in a domain."""

    def __init__(self, found: dict[str, list[Any]]) -> None:
        array = {name: np.array(values) for name, values in found.items()}
        self._bits_N, self._bytes_N = array["nats"] / math.log(2), array["bytes"]
        self.documents = self._bits_N.size
        self.value = float(self._bits_N.sum() / self._bytes_N.sum()) if self._bytes_N.any() else math.nan
        self.coverage = float(array["decoded"].sum() / array["original"].sum())
        self.unknown = float(1000 * array["unknown"].sum() / max(array["tokens"].sum(), 1))

    @property
    def is_kept(self) -> bool:
        """Return whether enough text comes back for a comparison with the bits of other tokenizers."""
        return self.coverage >= _LEAST_COVERAGE and self.unknown < _MOST_UNKNOWN

    def resampled(self, name: str) -> np.ndarray:
        """Return the ratio [R] of other draws of documents, which are the same for all models of a domain."""
        if math.isnan(self.value):
            raise CorpusError(f"the tokenizer keeps none of the text of {name}: give text that it was made for")
        return resampled_ratios(self._bits_N, self._bytes_N, xxhash.xxh3_64_intdigest(name.encode()))


def _once(model: DomainModel, domain: Domain, load: Callable[[], Likelihood], folder: Path, bar: Any) -> Any:
    """Return what `DomainModel.measure` finds, or has found before."""
    before, file = bar.n, domain_file(folder, model.checkpoint, domain.name)
    found = once(file, model.made | {"texts": domain.digest}, lambda: model.measure(domain.texts, load(), bar))
    bar.update(len(domain.texts) - (bar.n - before))
    return found


def _rows(model: DomainModel, domain: Domain, found: _Measured, ratio_R: np.ndarray) -> list[ResultRow]:
    """Return the rows of a domain."""
    estimates = {model.metric: interval(found.value, ratio_R)}
    estimates |= {
        metric: Estimate(value, 0.0, value, value)
        for metric, value in ((COVERAGE, found.coverage), (UNKNOWN, found.unknown))
    }
    part = f", of {domain.available:,} documents evenly spaced" if found.documents < domain.available else ""
    harness = _harness(model, found.is_kept, part)
    return [_row(model, domain.name, metric, one, found.documents, harness) for metric, one in estimates.items()]


def _row(model: DomainModel, name: str, metric: str, estimate: Estimate, n: int, harness: str) -> ResultRow:
    row = model.checkpoint.row(f"{DOMAIN}{name}", metric, (estimate.value, estimate.stderr, n), 0, harness)
    return replace(row, ci95_low=estimate.low, ci95_high=estimate.high)


def _harness(model: DomainModel, is_kept: bool, more: str = "") -> str:
    """Say in a row how the model was asked, and whether its tokenizer loses too much for others to compare with."""
    overlap = ", half of each context" if model.is_causal and model.windows.overlap else ""
    limited = "" if is_kept else ", this tokenizer only"
    return f"winnow-llm {__version__}, windows of {model.window:,} tokens{overlap}{more}{limited}"


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in parts of some characters."""
    part, characters = list[str](), 0
    for text in texts:
        part.append(text)
        characters += len(text)
        if characters >= _CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part
