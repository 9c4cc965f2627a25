"""Public texts for the embedded Ask-LLM proxy: encyclopaedia articles, novels and chat, from pinned files on the web.

Each file is named by the commit of its repository and by the digest of its bytes, so that the recipe reads the same
text wherever and whenever it is run, or refuses. What is downloaded once is read from its folder afterwards.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline_steps.errors import CorpusError


@dataclass(frozen=True)
class PublicFile:
    """One file: its kind of text ("article", "novel" or "chat"), address, SHA-256 and licence."""

    kind: str
    url: str
    sha256: str
    license: str

    @property
    def name(self) -> str:
        """The file's name in the folder of downloads."""
        return f"{self.kind}-{self.url.rpartition('/')[2]}"


KINDS = ("article", "novel", "chat")

_RAW = "https://raw.githubusercontent.com"
_WIKITEXT = f"{_RAW}/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data/wikitext-2"
_NOVELS = f"{_RAW}/computationalstylistics/100_english_novels/143e601875d70e195f2cc5ebd8b034609271194d/corpus"
_CHAT = f"{_RAW}/jkkummerfeld/irc-disentanglement/82ed04f9627a45d0d6f2ec3c8683c88eb408a0d5/data/dev"
_WIKI_DEMO = f"{_RAW}/hiyouga/LLaMA-Factory/ff6d4d12eeb035d6ce06805a5733dd7b29f2ac30/data/wiki_demo.txt"

FILES: tuple[PublicFile, ...] = (
    *(
        PublicFile("article", url, sha256, "CC BY-SA (Wikipedia)")
        for url, sha256 in (
            (f"{_WIKITEXT}/test.txt", "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"),
            (f"{_WIKITEXT}/valid.txt", "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"),
            (_WIKI_DEMO, "69c0c4d067a95a1a65022f2ae1efff9654b1953b09f206f8832620ebbffa0daf"),
        )
    ),
    *(
        PublicFile("novel", f"{_NOVELS}/{name}.txt", sha256, "public domain (published before 1929)")
        for name, sha256 in (
            ("Bennet_Helen_1910", "f1e932c25b2ba05a668950add48e177fc6ae85ddb313d2e163a97499999f6f7d"),
            ("Burnett_Lord_1886", "516484062347814d52f2c5d2a815fdcc5634d34bcb0e364415de48d224104720"),
            ("Chesterton_Innocence_1911", "30c64a3e06d61346fa8791a1626f92617e42c4485c975370459ae76508607cfe"),
            ("Conrad_Almayer_1895", "75621bf095c2435962463d95691f8d99cb4cc1c7f8da74a816923df67ce3dd07"),
            ("Doyle_Lost_1912", "2aedeacb117d75644cd9f636f0420922b2f7b24fe8756ea56d4f5a5512bb629d"),
            ("Forster_View_1908", "9d0b40917d31a38e73fa48731383be45e31252fe48c8cf7a33da6e2174cc0815"),
            ("Galsworthy_Man_1906", "3b2ac7bf90f9e6f2c4141dbe4a34ae0761e797576b787cac01d900e185e9b120"),
            ("Gissing_Warburton_1903", "29ff069e5278ed0da04fddc33316f0f5043f8d88f45e3be540b994890f1585e7"),
            ("Haggard_Mines_1885", "96162f8c51b25587769b13a7a0a663f9a35dd2b7e4a2f0c508b735c178589d18"),
            ("Kipling_Captains_1896", "4cbd826a3d084f020286923cf70773d0627ccf494521be54d84dbe967c3b509f"),
            ("Schreiner_Farm_1883", "72ceb45280959797286c98af0e7bf385e0cb23fee7582808c0b4ebbb4f8b58b0"),
            ("Stevenson_Catriona_1893", "105111220dfc0fa52f340f4f03e1e5394c7d810fc0eab7491517649c6c34d6d7"),
            ("Trollope_Warden_1855", "7ea03f128eb005afd26e01db31a921b33fe932ebb4826016297ffac5e2a75632"),
        )
    ),
    *(
        PublicFile("chat", f"{_CHAT}/{name}.raw.txt", sha256, "CC BY 4.0 (Kummerfeld et al. 2019)")
        for name, sha256 in (
            ("2004-11-15_03", "2488371b4370a497d30c0b3a38415e30a278cd0bcf41df77439fc7859cead07a"),
            ("2005-06-27_12", "07a04a54bf423367a1174b790d1a50a8809de9703d57c193c625918e165074fb"),
            ("2005-08-08_01", "e1a5af3bceed491d32f09e69aea0dfca14026364fca234782764b14d60bf861f"),
            ("2008-12-11_11", "ed5c22269e29c42ba6c3f68e11147a7cedf1bdd83297b1b13e36c7dde33f2c83"),
            ("2009-02-23_10", "87aa80ce754ce1e21b5881da5d37e6406fb5467c2579d032ce685e161d8c95a8"),
            ("2009-03-03_10", "faab4de09fd95bc7e4f012c3067e29b142f916a20724d718ca7d00ea0cbb0ea0"),
            ("2009-10-01_17", "9e147ccd46e4b3426a718f7b0692a5ca17acccf3167be1055a0237f9d762172d"),
            ("2011-05-29_19", "0f2da0a2c1228c38d5e3e8e07f633a041f976142f57edd890f630cb6269d4b56"),
            ("2011-11-13_02", "5c7f0203beabf80bea6b2e28c635138f1af2d9e237c91042768ebd2789482595"),
            ("2016-12-19_20", "8287b10357a90c903ce39d4e7a1e2802c139bab94a0fe5ebe5516b0fbfef3aa9"),
        )
    ),
)
"""What the shipped proxy was trained on beside the documentation of packages."""

PASSAGE_WORDS = 600  # as long as the longest example
_HEADING = re.compile(r"^(?: =)+ .* (?:= ?)+$", re.MULTILINE)
_ARTICLE = re.compile(r"^ = [^=\n]+ = ?$", re.MULTILINE)


def read_public_texts(folder: Path, files: tuple[PublicFile, ...] = FILES) -> dict[str, dict[str, list[str]]]:
    """Return the passages of every file, by kind and by group: an article, a novel or a day of chat.

    Args:
        folder: where downloads are kept; a file that is there already is not downloaded again.
        files: what to read; every `url` is any that fsspec opens.

    Raises:
        CorpusError: a file cannot be had, or is not the one that was asked for.
    """
    texts: dict[str, dict[str, list[str]]] = {}
    for file in files:
        text = _download(file, folder).decode("utf-8-sig").replace("\r\n", "\n")
        groups = {"article": _articles, "novel": _whole, "chat": _whole}[file.kind](text)
        for place, group in enumerate(groups):
            cut = chat_windows(group) if file.kind == "chat" else passages(group)
            texts.setdefault(file.kind, {})[f"{file.name}/{place}"] = cut
    return texts


def _download(file: PublicFile, folder: Path) -> bytes:
    import fsspec

    path = folder / file.name
    if path.exists():
        content = path.read_bytes()
    else:
        try:
            with fsspec.open(file.url, "rb") as source:
                content = source.read()
        except OSError as error:
            raise CorpusError(f"{file.url} cannot be read ({error}): put the file at {path} by hand") from error
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        where = path if path.exists() else file.url
        raise CorpusError(f"{where} has SHA-256 {found}, not {file.sha256}: delete it, or fetch the pinned version")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        partial.write_bytes(content)
        partial.replace(path)
    return content


def _whole(text: str) -> list[str]:
    return [text]


def _articles(text: str) -> list[str]:
    """Split a file into articles: at titles where it is WikiText, else at lines."""
    if _ARTICLE.search(text) is None:
        return [article.strip() for article in text.split("\n") if article.strip()]
    return [_detokenize(article) for article in _ARTICLE.split(text) if article.strip()]


def _detokenize(article: str) -> str:
    """Undo WikiText's tokenization, drop headings, and put a name of the article where it has lost a rare word."""
    names = re.findall(r"\b[A-Z][a-z]{2,}\b", article) or ["It"]
    rng = random.Random(len(article))
    text = re.sub("<unk>", lambda _: rng.choice(names), _HEADING.sub("", article))
    for pattern, plain in (
        (r" @([-,.])@ ", r"\1"),
        (r" ([,.;:!?)\]%'])", r"\1"),
        (r"([(\[$£]) ", r"\1"),
        (r'" ([^"\n]*?) "', r'"\1"'),
    ):
        text = re.sub(pattern, plain, text)
    return text


def passages(text: str) -> list[str]:
    """Return whole paragraphs, one on each line, in passages of at least 600 words; a rest of 60 is one as well."""
    separator = r"\n\s*\n" if "\n\n" in text else r"\n"
    paragraphs = [" ".join(part.split()) for part in re.split(separator, text)]
    found: list[str] = []
    current: list[str] = []
    for paragraph in filter(None, paragraphs):
        current.append(paragraph)
        if sum(len(part.split()) for part in current) >= PASSAGE_WORDS:
            found.append("\n".join(current))
            current = []
    if sum(len(part.split()) for part in current) >= 60:
        found.append("\n".join(current))
    return found


def chat_windows(text: str) -> list[str]:
    """Return what is said in a chat in windows of 5 to 40 lines, without times and comings and goings."""
    lines = [re.sub(r"^\[\d\d:\d\d\] ", "", line) for line in text.split("\n")]
    lines = [line for line in lines if line.strip() and not line.startswith("===")]
    rng, found, start = random.Random(len(text)), [], 0
    while start < len(lines):
        size = rng.randint(5, 40)
        found.append("\n".join(lines[start : start + size]))
        start += size
    return found
