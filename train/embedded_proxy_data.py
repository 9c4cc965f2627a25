"""Examples for the embedded Ask-LLM proxy: text worth reading, and the ways web pages fail to be.

Good examples are prose of the installed documentation under permissive licences. Bad ones are made from the same text,
so that neither topic nor vocabulary gives the answer away: damaged (shuffled, garbled, cut up, repeated), or of a kind
that crawls are full of and nobody learns from (menus, listings, spam, comments, parameter dumps, tables), from
templates of our own. Everything is a function of the seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence


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

    Attributes:
        documents: texts.
        sentences: of all documents, of 5 to 40 words.
        words: alphabetic words of all documents, repeated as often as they occur.
        dumps: documents that are lists of parameters more than prose.
    """

    def __init__(self, documents: Sequence[str], dumps: Sequence[str]) -> None:
        self.documents = list(documents)
        self.dumps = list(dumps)
        self.sentences = [s for text in documents for s in sentences(text) if 5 <= len(s.split()) <= 40]
        self.words = [word for text in documents for word in re.findall(r"[A-Za-z]{3,}", text)]


def sentences(text: str) -> list[str]:
    """Split a text into sentences without line breaks."""
    return re.split(r"(?<=[.!?])\s+", " ".join(text.split()))


def reflow(rng: random.Random, text: str) -> str:
    """Lay a text out as a web page: paragraphs on one line each, sometimes only a part of it."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    start = rng.randrange(len(paragraphs)) if rng.random() < 0.3 else 0
    return "\n".join(paragraphs[start:]) or text


def good(rng: random.Random, pool: Pool) -> str:
    """Return a document, laid out as found or as a web page."""
    text = rng.choice(pool.documents)
    return reflow(rng, text) if rng.random() < 0.7 else text


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


def advert(rng: random.Random, pool: Pool) -> str:
    """Return sentences around a product that say nothing of the world."""
    thing = _title(rng, pool, 3)
    lines = [
        f"Buy {thing} online now at the {rng.choice(_HYPE)}!",
        f"We offer the best {thing} with {rng.choice(_HYPE)} and {rng.choice(_HYPE)}.",
        f"Don't miss out on our {rng.choice(_HYPE)} {thing}.",
        f"Contact us today for your free {thing} quote, our friendly team is here to help you.",
        f"Looking for {thing}? You have come to the right place.",
        f"Call {rng.randint(200, 999)}-{rng.randint(200, 999)}-{rng.randint(1000, 9999)} or visit our store.",
        f"Thousands of happy customers love {thing}. Order yours today and save {rng.randint(5, 80)}%!",
    ]
    return " ".join(rng.sample(lines, rng.randint(3, len(lines))))


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
    parts = rng.sample([menu, listing, comments, calendar, notices, spam, advert, fragments], 3)
    return "\n".join("\n".join(make(rng, pool).splitlines()[: rng.randint(3, 9)]) for make in parts)


BAD: tuple[tuple[Make, float], ...] = (
    (shuffled_words, 1),
    (unrelated_sentences, 1),
    (fragments, 1),
    (garbled, 1),
    (repeated, 0.7),
    (menu, 1),
    (listing, 1),
    (spam, 1),
    (advert, 1.5),
    (comments, 1.5),
    (calendar, 1),
    (numbers, 0.7),
    (notices, 0.7),
    (dump, 1.5),
    (mixture, 1.5),
)
"""Kinds of bad text with their weight in training."""


def example(rng: random.Random, pool: Pool) -> tuple[str, bool]:
    """Draw one text; return it and whether it is good.

    Good texts have 60 to 400 words, bad ones 10 to 250: what is worth learning from takes some room, as it does on the
    web, but long junk and short prose are common enough that length alone does not decide.
    """
    if rng.random() < 0.5:
        text = good(rng, pool)
        if rng.random() < 0.15:  # a good page has some furniture too
            text = "\n".join([*menu(rng, pool).splitlines()[:2], text, *notices(rng, pool).splitlines()[:1]])
        return _first_words(text, rng.randint(60, 400)), True
    (make,) = rng.choices([make for make, _ in BAD], weights=[weight for _, weight in BAD])
    text, longest = make(rng, pool), rng.randint(10, 250)
    while len(text.split()) < longest / 2:
        text += rng.choice(["\n", "\n\n", " "]) + make(rng, pool)
    return _first_words(text, longest), False


def _first_words(text: str, count: int) -> str:
    """Return the text up to its `count`-th space; its layout stays."""
    return " ".join(text.split(" ")[:count])
