"""Token ids of many prompts and their answers, arranged so that a causal model computes what they share once.

Prompts that begin alike are a group: the model runs their common beginning once and keeps its keys and values. A row
is the rest of one prompt with all its answers behind it, each of which sees the prompt and itself:

    ids       p5 p6 p7 | a1 a2 | b1        answers (a1 a2 a3) and (b1 b2), without their last ids
    position   5  6  7 |  8  9 |  8
    reads     a1 and b1 after p7, a2 after a1, a3 after a2, b2 after b1

Shapes: Q ids of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np


Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of an answer, neither of them empty."""
Read = tuple[int, int, int]
"""A step of a row, the id whose probability is read after it, and the number of the request it belongs to."""


@dataclass(frozen=True)
class Group:
    """Prompts that begin with the same `shared` tokens, by their numbers."""

    shared: int
    members: list[int]


@dataclass(frozen=True)
class PromptRow:
    """What a model runs behind the shared beginning, and what is read of it.

    Attributes:
        ids: token ids, those of the prompt first.
        position: place of each in its own text.
        answers: the steps of each answer.
        reads: probabilities to read.
    """

    ids: list[int]
    position: list[int]
    answers: list[slice]
    reads: list[Read]

    def sees(self) -> np.ndarray:
        """Return whether the step at the first index sees that at the second, bool [Q, Q]."""
        sees_QQ = np.tri(len(self.ids), dtype=bool)
        for one in self.answers:
            sees_QQ[one, self.answers[0].start : one.start] = False
        return sees_QQ


def group_by_beginning(prompts: Sequence[tuple[int, ...]], cost: int) -> list[Group]:
    """Return groups of distinct prompts whose common beginnings are worth a pass of their own.

    Prompts join the longest beginning that pays, or a shorter one where more of them share that. The last token of a
    prompt is never shared, since every row needs one of its own.

    Args:
        prompts: token ids, no two alike.
        cost: tokens that a group must save to pay; a forward pass of its own takes as long as that many.

    Returns:
        Each prompt is in one group. Those that share nothing worth a pass are the last group, with `shared` 0.
    """
    if not prompts:
        return []
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    common = [_common(prompts[one], prompts[other]) for one, other in pairwise(order)]
    nodes: list[_Node] = []  # from the root to the node that the next prompt may still belong to
    for number, ahead in zip(order, [*common, 0], strict=True):
        node = _Node(len(prompts[number]), [number])
        while nodes and nodes[-1].length > ahead:
            node = nodes.pop().with_child(node).settled(cost)
        if not (nodes and nodes[-1].length == ahead):
            nodes.append(_Node(ahead))
        nodes[-1].with_child(node)
    (root,) = nodes
    return root.groups + ([Group(0, root.members)] if root.members else [])


@dataclass
class _Node:
    """Prompts that begin alike, as a node of the tree of their beginnings.

    Attributes:
        length: tokens of the common beginning.
        members: prompts that are in no group yet.
        groups: groups of the other prompts.
    """

    length: int
    members: list[int] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    def with_child(self, child: _Node) -> _Node:
        """Take over what a node of a longer beginning has; return itself."""
        self.members += child.members
        self.groups += child.groups
        return self

    def settled(self, cost: int) -> _Node:
        """Make a group of this node's beginning if it saves more than it costs; return itself."""
        saved = [(len(group.members) - 1) * group.shared - cost for group in self.groups]
        joins = [len(group.members) * self.length > tokens for group, tokens in zip(self.groups, saved, strict=True)]
        joined = [group for group, does in zip(self.groups, joins, strict=True) if does]
        together = [*self.members, *(number for group in joined for number in group.members)]
        before = sum(tokens for tokens, does in zip(saved, joins, strict=True) if does)
        if (len(together) - 1) * self.length - cost > before:
            rest = [group for group, does in zip(self.groups, joins, strict=True) if not does]
            self.groups, self.members = [*rest, Group(self.length, together)], []
        return self


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return how many tokens two prompts can share."""
    most = min(len(one), len(other)) - 1
    differ = np.flatnonzero(np.asarray(one[:most]) != np.asarray(other[:most]))
    return int(differ[0]) if differ.size else most


def by_prompt(pairs: Sequence[Pair]) -> dict[tuple[int, ...], list[int]]:
    """Return the numbers of the pairs of each prompt."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, (prompt, _) in enumerate(pairs):
        found.setdefault(tuple(prompt), []).append(number)
    return found


def tree_row(prompt: Sequence[int], shared: int, pairs: Sequence[Pair], numbers: Sequence[int]) -> PromptRow:
    """Return the row of a prompt behind its first `shared` tokens, with the answers of the numbered pairs.

    Answers that differ in their last ids only are run once.
    """
    row = PromptRow(list(prompt[shared:]), list(range(shared, len(prompt))), [], [])
    last_step = len(row.ids) - 1
    for body, ends in _ends(pairs, numbers).items():
        here = slice(len(row.ids), len(row.ids) + len(body))
        row.ids.extend(body)
        row.position.extend(range(len(prompt), len(prompt) + len(body)))
        row.answers.append(here)
        row.reads.extend(_reads([last_step, *range(here.start, here.stop)], body, ends))
    return row


def plain_rows(prompt: Sequence[int], pairs: Sequence[Pair], numbers: Sequence[int]) -> Iterator[PromptRow]:
    """Yield a row for each of the numbered pairs, whose steps see all before them, as any causal model's do.

    Answers that differ in their last ids only share one.
    """
    for body, ends in _ends(pairs, numbers).items():
        ids = [*prompt, *body]
        yield PromptRow(ids, list(range(len(ids))), [], _reads(range(len(prompt) - 1, len(ids)), body, ends))


def batches(rows: Sequence[PromptRow], shared: int, tokens: int, reads: int) -> Iterator[list[PromptRow]]:
    """Yield rows by falling length in batches of at most so many tokens and so many reads.

    Tokens include padding and, for each row, the shared beginning. A row that exceeds a limit is a batch of its own.
    """
    batch: list[PromptRow] = []
    read = 0
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        read += len(row.reads)
        if batch and (read > reads or (len(batch) + 1) * (shared + len(batch[0].ids)) > tokens):
            yield batch
            batch, read = [], len(row.reads)
        batch.append(row)
    if batch:
        yield batch


def _ends(pairs: Sequence[Pair], numbers: Sequence[int]) -> dict[tuple[int, ...], list[tuple[int, int]]]:
    """Return, for each answer without its last id, the last ids and numbers of the pairs that have it."""
    found: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for number in numbers:
        *body, last = pairs[number][1]
        found.setdefault(tuple(body), []).append((last, number))
    return found


def _reads(steps: Sequence[int], body: Sequence[int], ends: Sequence[tuple[int, int]]) -> list[Read]:
    return [(step, target, number) for last, number in ends for step, target in zip(steps, (*body, last), strict=True)]
