"""The prefix tree against its definition: every sequence can be read back, and nothing shared is held twice."""

import pytest
import torch

from llds.batches.prefix_tree import PrefixTree


def padded(sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    ids = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    return ids, lengths


CASES = {
    "one": [[5, 6, 7]],
    "nothing shared": [[1, 2], [2, 1], [3]],
    "a prompt": [[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 6, 7]],
    "equal sequences": [[1, 2, 3], [1, 2, 3], [1, 2, 3]],
    "one is the beginning of another": [[1, 2, 3, 4], [1, 2], [1, 2, 3]],
    "padding looks like a token": [[1, 0, 0], [1], [1, 0]],
    "two groups": [[1, 2, 3], [9, 8, 7], [1, 2, 4], [9, 8, 6]],
}


@pytest.mark.parametrize("sequences", CASES.values(), ids=CASES.keys())
def test_holds_each_distinct_prefix_once(sequences: list[list[int]]) -> None:
    tree = PrefixTree.build(*padded(sequences))
    for row, sequence in enumerate(sequences):
        nodes = tree.nodes[row, : len(sequence)]
        assert tree.token_ids[nodes].tolist() == sequence
        assert tree.positions[nodes].tolist() == list(range(len(sequence)))
    prefixes = {tuple(sequence[: end + 1]) for sequence in sequences for end in range(len(sequence))}
    assert len(tree) == len(prefixes)


@pytest.mark.parametrize("sequences", CASES.values(), ids=CASES.keys())
def test_a_token_sees_its_own_prefix_and_nothing_else(sequences: list[list[int]]) -> None:
    tree = PrefixTree.build(*padded(sequences))
    seen: dict[int, list[int]] = {}
    for length, keys in zip(tree.segment_lengths, tree.keys.split(tree.key_lengths), strict=True):
        path = len(keys) - length  # the queries are the last of the keys, and see what comes before them
        for place in range(path, len(keys)):
            seen[len(seen)] = keys[: place + 1].tolist()
    assert sorted(seen) == list(range(len(tree)))
    for row, sequence in enumerate(sequences):
        nodes = tree.nodes[row, : len(sequence)].tolist()
        for end, node in enumerate(nodes):
            assert seen[node] == nodes[: end + 1]


def test_random_sequences_survive() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        count = int(torch.randint(1, 9, (), generator=generator))
        sequences = [
            torch.randint(0, 2, (int(torch.randint(1, 7, (), generator=generator)),), generator=generator).tolist()
            for _ in range(count)
        ]
        test_holds_each_distinct_prefix_once(sequences)
        test_a_token_sees_its_own_prefix_and_nothing_else(sequences)


def test_a_group_costs_its_prompt_once() -> None:
    group = [[*range(100), 200 + member, *range(7)] for member in range(8)]
    assert len(PrefixTree.build(*padded(group))) == 100 + 8 * 8
