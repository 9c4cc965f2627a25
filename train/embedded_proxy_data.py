"""Examples for the embedded Ask-LLM proxy: text worth reading, and the ways web pages fail to be.

Good examples are prose: of the installed documentation under permissive licences and, where they are given, of
encyclopaedia articles and novels. Bad ones are made from the same text, so that topic and vocabulary alone do not give
the answer away: damaged (shuffled, garbled, cut up, repeated), too short, buried in a page's furniture, or of a kind
that crawls are full of and nobody learns from (advertising, diaries, forums, menus, listings, spam, parameter dumps,
tables), from templates of our own. Everything is a function of the seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from train.embedded_proxy_phrases import PAGES


PERMISSIVE = re.compile(
    r"PSF|Python Software Foundation|\bMIT\b|BSD|Apache|ISC|Unlicense|CC0|Zlib|HPND", re.IGNORECASE
)
_COPYLEFT = re.compile(r"GPL|Mozilla|MPL|EUPL|proprietary|non-?commercial", re.IGNORECASE)

Make = Callable[[random.Random, "Pool"], str]


def is_permissive(license: str) -> bool:
    """Return whether a distribution's own words allow weights trained on its text to be redistributed."""
    return bool(PERMISSIVE.search(license)) and not _COPYLEFT.search(license)


class Pool:
    """Prose documents and what they are made of.

    Args:
        documents: documentation, in an order in which neighbours belong together.
        dumps: documents that are lists of parameters more than prose.
        articles: passages of an encyclopaedia.
        novels: passages of novels.
        chats: windows of chat.

    Attributes:
        sentences: of all prose, of 5 to 40 words.
        words: alphabetic words of all prose, repeated as often as they occur.
    """

    def __init__(
        self,
        documents: Sequence[str],
        dumps: Sequence[str],
        articles: Sequence[str] = (),
        novels: Sequence[str] = (),
        chats: Sequence[str] = (),
    ) -> None:
        self.documents, self.dumps = list(documents), list(dumps)
        self.articles, self.novels, self.chats = list(articles), list(novels), list(chats)
        prose = [*self.documents, *self.articles, *self.novels]
        self.sentences = [s for text in prose for s in sentences(text) if 5 <= len(s.split()) <= 40]
        self.words = [word for text in prose for word in re.findall(r"[A-Za-z]{3,}", text)]

    def sizes(self) -> dict[str, int]:
        """Return the number of passages of each kind."""
        return {name: len(getattr(self, name)) for name in ("documents", "dumps", "articles", "novels", "chats")}


def sentences(text: str) -> list[str]:
    """Split a text into sentences without line breaks."""
    return re.split(r"(?<=[.!?])\s+", " ".join(text.split()))


def reflow(rng: random.Random, text: str) -> str:
    """Lay a text out as a web page: paragraphs on one line each, sometimes only a part of it."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    start = rng.randrange(len(paragraphs)) if rng.random() < 0.3 else 0
    return "\n".join(paragraphs[start:]) or text


# How often good text is documentation, an article, a novel: novels are well written but inform less
_SHARES = (1.0, 1.0, 0.2)


def good(rng: random.Random, pool: Pool, words: int = 0) -> str:
    """Return prose of about `words` words or more, laid out as found or as a web page.

    Documentation that is shorter goes on with what comes next in its package.
    """
    shares = [share * bool(texts) for share, texts in zip(_SHARES, _prose(pool), strict=True)]
    (kind,) = rng.choices(_prose(pool), weights=shares)
    place = rng.randrange(len(kind))
    text = kind[place]
    while kind is pool.documents and len(text.split()) < words and place + 1 < len(kind):
        place += 1
        text += "\n\n" + kind[place]
    return reflow(rng, text) if rng.random() < 0.7 else text


def _prose(pool: Pool) -> list[list[str]]:
    return [pool.documents, pool.articles, pool.novels]


# -- damage ----------------------------------------------------------------------------------------------------------


def shuffled_words(rng: random.Random, pool: Pool) -> str:
    """Return the words of a document in another order."""
    words = good(rng, pool).split()
    rng.shuffle(words)
    return " ".join(words)


def unrelated_sentences(rng: random.Random, pool: Pool) -> str:
    """String sentences of many documents together, as a spun or scraped page does."""
    return " ".join(rng.choice(pool.sentences) for _ in range(rng.randint(5, 15)))


def fragments(rng: random.Random, pool: Pool) -> str:
    """Return teasers: the beginnings of sentences, cut off."""
    cut = [" ".join(rng.choice(pool.sentences).split()[: rng.randint(3, 9)]) for _ in range(rng.randint(6, 20))]
    ending = rng.choice(["...", "…", "... Read more", " [more]", "... Continue reading →"])
    return "\n".join(line + ending for line in cut)


def garbled(rng: random.Random, pool: Pool) -> str:
    """Replace characters, as bad optical recognition or a wrong encoding does."""
    rate = rng.uniform(0.08, 0.3)
    wrong = rng.choice(["|1lI!;:'`~^*.,-_ ", "Ã©â€™Â¢¤ï¿½", "#@%&$*0OQ", "?�"])
    return "".join(rng.choice(wrong) if rng.random() < rate and c != "\n" else c for c in good(rng, pool))


def repeated(rng: random.Random, pool: Pool) -> str:
    """Repeat one phrase over and over."""
    phrase = " ".join(rng.choice(pool.sentences).split()[: rng.randint(2, 10)])
    return rng.choice([" ", "\n", ". ", " | "]).join([phrase] * rng.randint(8, 30))


# -- pages nobody learns from ----------------------------------------------------------------------------------------


def _bar_separated(items: str) -> list[str]:
    return items.split("|")


_MENU = _bar_separated(
    "Home|About Us|Contact|Login|Register|My Account|Cart|Checkout|Search|FAQ|Help|Sitemap|Privacy Policy|"
    "Terms of Use|News|Blog|Forum|Gallery|Photos|Videos|Events|Calendar|Shop|Products|Services|Support|"
    "Careers|Archive|Categories|Next|Previous|Back to top|Share|Tweet|Like|Follow us|RSS|Subscribe|Newsletter|"
    "Download|Print|Email this|Leave a comment|No comments|Reply|Quote|Report|Members|Statistics|Today|"
    "Sign up|Sign in|View all|Show more"
)
_HYPE = _bar_separated(
    "cheap|best price|free shipping|discount|buy now|online|sale|special offer|top rated|limited time|"
    "click here|deal|coupon|bonus|casino|win|guaranteed|100% free|lowest prices|order today|in stock|"
    "wholesale|review|reviews 2020|near me|download free|full version|no prescription|replica|loans|credit|"
    "weight loss|hot|sexy|dating|singles"
)
_COMMENTS = _bar_separated(
    "Great post!|Thanks for sharing this.|lol|I agree with you 100%|first!!!|This is awesome, keep it up|"
    "nice blog|wtf|can someone help me plz|+1|me too|I love this so much!!!|does anyone know?|"
    "check out my page|so cute omg|you are an idiot|haha yes|dont buy this, total crap|thx|"
    "Where did you get that?|amazing!!|what a stupid article|"
    "I was wondering if you ever considered changing the layout|bump|any news?|see you there!|Happy birthday!"
)
_NAMES = _bar_separated(
    "John|Anna|mike99|Sarah_K|admin|Guest|xXdavidXx|Maria|Tom|Lisa|superuser77|KatieB|Paul|J.|Anonymous"
)
_MONTHS = _bar_separated("January|February|March|April|May|June|July|August|September|October|November|December")


def _date(rng: random.Random) -> str:
    month, day, year = rng.choice(_MONTHS), rng.randint(1, 28), rng.randint(1998, 2023)
    return rng.choice([f"{month} {day}, {year}", f"{day}/{rng.randint(1, 12)}/{year}", f"{month} {year}"])


def _title(rng: random.Random, pool: Pool, longest: int = 5) -> str:
    return " ".join(rng.choice(pool.words).capitalize() for _ in range(rng.randint(1, longest)))


def menu(rng: random.Random, pool: Pool) -> str:
    """Return navigation: a page's links without the page."""
    items = [rng.choice(_MENU) if rng.random() < 0.7 else _title(rng, pool, 3) for _ in range(rng.randint(15, 60))]
    return rng.choice(["\n", " | ", " ", " » ", "\n* "]).join(items)


def listing(rng: random.Random, pool: Pool) -> str:
    """List goods with prices, sizes and stock."""
    rows = []
    for _ in range(rng.randint(6, 20)):
        price = f"{rng.choice('$€£')}{rng.randint(1, 900)}.{rng.choice(['00', '95', '99'])}"
        tail = rng.choice(
            ["Add to cart", "In stock", f"Qty: {rng.randint(1, 9)}", f"{rng.randint(0, 99)} reviews", ""]
        )
        rows.append(f"{_title(rng, pool)} {rng.choice(['-', ':', '–', ''])} {price} {tail}")
    return "\n".join(rows)


def spam(rng: random.Random, pool: Pool) -> str:
    """Return keywords for search engines."""
    subject = _title(rng, pool, 2).lower()
    words = [subject if rng.random() < 0.4 else rng.choice(_HYPE) for _ in range(rng.randint(30, 90))]
    return rng.choice([" ", ", ", " - "]).join(words)


def empty_talk(rng: random.Random, pool: Pool) -> str:
    """Return advertising, a diary, a forum's posts or the like, sometimes around sentences of prose."""
    kinds = list(PAGES)
    phrases = PAGES[rng.choice(kinds)]
    lines = [_fill(rng, pool, text) for text in rng.sample(phrases, rng.randint(2, min(12, len(phrases))))]
    if rng.random() < 0.4:
        lines = [part for line in lines for part in (line, *_perhaps(rng, pool))]
    if rng.random() < 0.2:
        lines += [_fill(rng, pool, text) for text in rng.sample(PAGES[rng.choice(kinds)], 2)]
    return rng.choice([" ", " ", "\n"]).join(lines)


def _perhaps(rng: random.Random, pool: Pool) -> list[str]:
    return [rng.choice(pool.sentences)] if rng.random() < 0.4 else []


def _fill(rng: random.Random, pool: Pool, text: str) -> str:
    """Replace the words in braces."""
    make: dict[str, Callable[[], str]] = {
        "thing": lambda: _title(rng, pool, 3),
        "word": lambda: rng.choice(pool.words).lower(),
        "name": lambda: rng.choice(_NAMES),
        "place": lambda: rng.choice(pool.words).capitalize(),
        "date": lambda: _date(rng),
        "n": lambda: str(rng.randint(1, 50)),
        "big": lambda: str(rng.randint(1000, 99999)),
        "price": lambda: f"{rng.choice('$$€£')}{rng.randint(1, 2000)}{rng.choice(['', '.00', '.99'])}",
    }
    return re.sub(r"\{(\w+)\}", lambda slot: make[slot[1]](), text)


def cluttered(rng: random.Random, pool: Pool) -> str:
    """Return a page whose furniture takes more room than its text."""
    text = " ".join(rng.choices(pool.sentences, k=rng.randint(1, 6)))
    before = [menu(rng, pool), _cut(rng, listing(rng, pool))]
    after = [_cut(rng, rng.choice((fragments, calendar, comments, empty_talk))(rng, pool)), notices(rng, pool)]
    return "\n".join([*before[: rng.randint(1, 2)], text, *after[: rng.randint(1, 2)]])


def _cut(rng: random.Random, text: str) -> str:
    return "\n".join(text.splitlines()[: rng.randint(3, 9)])


def chat(rng: random.Random, pool: Pool) -> str:
    """Return people talking to each other."""
    return rng.choice(pool.chats) if pool.chats else comments(rng, pool)


def comments(rng: random.Random, pool: Pool) -> str:
    """Return a thread of remarks."""
    rows = []
    for _ in range(rng.randint(4, 14)):
        said = (
            rng.choice(_COMMENTS) if rng.random() < 0.75 else " ".join(rng.choices(pool.words, k=rng.randint(3, 12)))
        )
        head = rng.choice(["{n} says:", "Posted by {n} on {d}", "{n} » {d}", "{n}, {d} at 5:{m} PM", "Re: {n}"])
        rows.append(head.format(n=rng.choice(_NAMES), d=_date(rng), m=rng.randint(10, 59)) + "\n" + said)
    return "\n".join(rows)


def calendar(rng: random.Random, pool: Pool) -> str:
    """List dates, places and headings."""
    rows = [f"{_date(rng)} {rng.choice(['-', '@', '|', ''])} {_title(rng, pool)}" for _ in range(rng.randint(8, 25))]
    return "\n".join(rows)


def numbers(rng: random.Random, pool: Pool) -> str:
    """Return a table without its meaning."""
    rows = []
    for _ in range(rng.randint(6, 20)):
        cells = [f"{rng.uniform(0, 999):.{rng.randint(0, 3)}f}" for _ in range(rng.randint(3, 8))]
        rows.append(" ".join([_title(rng, pool, 2), *cells]))
    return "\n".join(rows)


def notices(rng: random.Random, pool: Pool) -> str:
    """Return notices that surround a page: cookies, rights, errors."""
    site = _title(rng, pool, 2)
    lines = [
        f"{site} uses cookies to improve your experience. By continuing you accept our use of cookies.",
        f"Copyright © {rng.randint(1999, 2023)} {site}. All rights reserved.",
        "The page you requested could not be found. Please check the address or return to the home page.",
        "You must be logged in to post. Forgot your password? Click here to reset it.",
        "JavaScript is disabled in your browser. Please enable it to view this page.",
        f"Sign up for the {site} newsletter and never miss an update! Enter your email address below.",
        f"Last updated: {_date(rng)}. Page {rng.randint(1, 40)} of {rng.randint(41, 99)}.",
    ]
    return "\n".join(rng.sample(lines, rng.randint(3, len(lines))))


def dump(rng: random.Random, pool: Pool) -> str:
    """Return parameters and types without explanation, as machines write them."""
    return reflow(rng, rng.choice(pool.dumps)) if pool.dumps else numbers(rng, pool)


def mixture(rng: random.Random, pool: Pool) -> str:
    """Return a page of several kinds, none of them text."""
    parts = rng.sample([menu, listing, comments, calendar, notices, spam, empty_talk, fragments], 3)
    return "\n".join(_cut(rng, make(rng, pool)) for make in parts)


BAD: tuple[tuple[Make, float], ...] = (
    (shuffled_words, 1),
    (unrelated_sentences, 1),
    (fragments, 1),
    (garbled, 1),
    (repeated, 0.7),
    (menu, 1),
    (listing, 1),
    (spam, 1),
    (empty_talk, 9),
    (cluttered, 6),
    (chat, 3),
    (comments, 1),
    (calendar, 1),
    (numbers, 0.7),
    (notices, 0.7),
    (dump, 1.5),
    (mixture, 1.5),
)
"""Kinds of bad text with their weight in training."""

SHORTEST, ENOUGH, LONGEST = 15, 60, 600
"""Words of the shortest bad text, of the shortest good one, and of the longest.

Prose of fewer than 60 words is a fragment; 600 words are more than the 512 tokens that a scorer reads by default.
"""


def example(rng: random.Random, pool: Pool) -> tuple[str, bool]:
    """Draw one text; return it and whether it is good.

    What is worth learning from takes some room: lengths of n words have a density of 1/n among good texts, and of 1/n²
    among bad ones, so that the odds of good grow in proportion to length where both occur. Cluttered pages are as long
    as good ones. One bad text in twelve is good prose of fewer than 60 words.
    """
    u = rng.random()
    if rng.random() < 0.5:
        words = round(ENOUGH * (LONGEST / ENOUGH) ** u)
        text = good(rng, pool, words)
        if rng.random() < 0.15:  # a good page has some furniture too
            text = "\n".join([*menu(rng, pool).splitlines()[:2], text, *notices(rng, pool).splitlines()[:1]])
        return _first_words(text, words), True
    if rng.random() < 1 / 12:
        return _first_words(good(rng, pool), rng.randint(5, ENOUGH - 1)), False
    (make,) = rng.choices([make for make, _ in BAD], weights=[weight for _, weight in BAD])
    if make is cluttered:
        words = round(SHORTEST * (LONGEST / SHORTEST) ** u)
    else:
        words = round(1 / (1 / SHORTEST - u * (1 / SHORTEST - 1 / LONGEST)))
    text = make(rng, pool)
    while len(text.split()) < words:
        text += rng.choice(["\n", "\n\n", " "]) + make(rng, pool)
    return _first_words(text, words), False


def _first_words(text: str, count: int) -> str:
    """Return the text up to its `count`-th space; its layout stays."""
    return " ".join(text.split(" ")[:count])
