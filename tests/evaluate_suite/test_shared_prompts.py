"""Every answer must see its prompt and itself, whatever it shares with others."""

from hypothesis import given
from hypothesis import strategies as st

from evaluate_suite.shared_prompts import batches, by_prompt, group_by_beginning, plain_rows, tree_row


IDS = st.integers(0, 2)
PROMPTS = st.lists(st.lists(IDS, min_size=1, max_size=7).map(tuple), min_size=1, max_size=12, unique=True)
PAIRS = st.lists(
    st.tuples(st.lists(IDS, min_size=1, max_size=5), st.lists(IDS, min_size=1, max_size=4)), min_size=1, max_size=12
)


@given(PROMPTS, st.integers(0, 6))
def test_groups_share_what_they_say_and_pay(prompts, cost):
    groups = group_by_beginning(prompts, cost)
    assert sorted(number for group in groups for number in group.members) == list(range(len(prompts)))
    for group in groups:
        assert len({prompts[number][: group.shared] for number in group.members}) == 1
        assert all(len(prompts[number]) > group.shared for number in group.members)
    saved = [(len(group.members) - 1) * group.shared - cost for group in groups if group.shared]
    assert all(tokens > 0 for tokens in saved)
    common = max(n for n in range(min(map(len, prompts))) if len({prompt[:n] for prompt in prompts}) == 1)
    assert sum(saved) >= (len(prompts) - 1) * common - cost  # never worse than one group of all


def test_exemplars_of_two_tasks_are_two_groups():
    prompts = [(1, *[task] * 50, question) for task in (2, 3) for question in range(4)]
    groups = group_by_beginning(prompts, cost=32)
    assert [(group.shared, sorted(group.members)) for group in groups] == [(51, [0, 1, 2, 3]), (51, [4, 5, 6, 7])]
    assert [group.shared for group in group_by_beginning(prompts, cost=1000)] == [0]


@given(PAIRS, st.data())
def test_what_is_read_follows_prompt_and_answer(pairs, data):
    """Of each row, rebuild the text that a step sees: with what is read there it must be a beginning of the pair's."""
    read = {number: [] for number in range(len(pairs))}
    for prompt, numbers in by_prompt(pairs).items():
        shared = data.draw(st.integers(0, len(prompt) - 1))
        rows = [(shared, tree_row(prompt, shared, pairs, numbers))]
        rows += [(0, row) for row in plain_rows(prompt, pairs, numbers)]
        for start, row in rows:
            for step, target, number in row.reads:
                steps = row.sees()[step].nonzero()[0]
                assert [row.position[one] for one in steps] == list(range(start, start + len(steps)))
                read[number].append([*prompt[:start], *(row.ids[one] for one in steps), target])
    for number, (prompt, answer) in enumerate(pairs):
        beginnings = [[*prompt, *answer[: n + 1]] for n in range(len(answer))]
        assert read[number] == beginnings * 2  # in the tree, then in the plain row


@given(PAIRS, st.integers(0, 9), st.integers(1, 40), st.integers(1, 9))
def test_batches_keep_to_their_limits(pairs, shared, tokens, reads):
    rows = [row for prompt, numbers in by_prompt(pairs).items() for row in plain_rows(prompt, pairs, numbers)]
    found = list(batches(rows, shared, tokens, reads))
    assert sorted(id(row) for batch in found for row in batch) == sorted(map(id, rows))
    for batch in (batch for batch in found if len(batch) > 1):
        assert len(batch) * (shared + max(len(row.ids) for row in batch)) <= tokens
        assert sum(len(row.reads) for row in batch) <= reads
