"""Code-switching as a plain loop over one row: the definition that the vectorised form must equal."""

from __future__ import annotations

import numpy as np

from xalign_jax.data.feeds.codeswitch import Switch, Table
from xalign_jax.data.sampling.hashing import draw32, hash64

Dictionary = dict[tuple[int, tuple[int, ...]], list[list[list[int]]]]


def switch_loop(
    row: list[int], draws: list[int], picks: list[int], language: int,
    keyed: Dictionary, flags: list[int], config: Switch, length: int, pad: int = 0, most: int = 1,
) -> tuple[list[int], list[int], list[float], dict[str, int]]:  # fmt: skip
    """Tokens, labels, weights (each at most `length`) and counts of one row.

    row: the tokens that are there, the last one is standalone or cut.   draws, picks: one integer for each token.
    most: words of the longest key.
    """
    tokens, labels, weights = [], [], []
    counts = dict.fromkeys(("words", "drawn", "switched", "clipped"), 0)
    fits, grown, words, at = language >= 0, 0, split(row, flags), 0

    def longest(at: int) -> int:
        """How many words the longest key that begins at a word has, none of them cut by the row's end; 0 = no key."""
        for n in range(min(most, len(words) - at), 0, -1) if words[at][2] else ():
            start, end = words[at][0], words[at + n - 1][1]
            if end < len(row) and (language, tuple(row[start:end])) in keyed:
                return n
        return 0

    while at < len(words):
        start, end, ordinary = words[at]
        whole = ordinary and end < len(row) and language >= 0
        drawn = draws[start] < config.rate * 2**32
        counts["words"] += whole and start < length
        counts["drawn"] += whole and drawn and start < length
        key = longest(at) if whole and drawn else 0
        if key and not any(at < before + longest(before) for before in range(max(0, at - most + 1), at)):
            stop = words[at + key - 1][1]
            translation = choose(keyed[language, tuple(row[start:stop])], picks[start])
            fits = fits and len(tokens) + len(translation) <= length
            if fits:
                rest = len(translation) - 1
                tokens += translation
                labels += translation if config.vanilla else [row[start]] + [pad] * rest
                weights += [1.0] * (rest + 1) if config.vanilla else [1.0] + [0.0] * rest
                counts["switched"] += 1
                grown += (rest + 1 - (stop - start)) * (start < length)
                for later, last, ordinary in words[at + 1 : at + key]:
                    whole = ordinary and last < len(row)
                    counts["words"] += whole and later < length
                    counts["drawn"] += whole and draws[later] < config.rate * 2**32 and later < length
                at += key
                continue
        tokens += row[start:end]
        labels += row[start:end]
        weights += [1.0] * (end - start)
        at += 1
    counts["clipped"] = max(0, grown)
    return tokens[:length], labels[:length], weights[:length], counts


def split(row: list[int], flags: list[int]) -> list[tuple[int, int, bool]]:
    """(start, end, is an ordinary word) covering the row; tokens before the first start are no word."""
    words, start, ordinary, ended = [], 0, False, 0
    for i, token in enumerate(row):
        if flags[token] & 1 or ended:
            if i:
                words.append((start, i, ordinary))
            start, ordinary = i, flags[token] < 4
        ended = flags[token] & 2
    words.append((start, len(row), ordinary))
    return words


def dictionary(table: Table) -> Dictionary:
    """(language, ids) -> target languages -> translations."""
    found = {}
    for k, key in enumerate(table.keys):
        groups = range(table.choices[k], table.choices[k + 1])
        words = [table.word[table.translations[g] : table.translations[g + 1]] for g in groups]
        found[int(table.key_language[k]), tuple(key[key >= 0].tolist())] = [
            [table.ids[table.starts[w] : table.starts[w + 1]].tolist() for w in group] for group in words
        ]
    return found


def choose(choices: list[list[list[int]]], pick: int) -> list[int]:
    group = choices[(pick >> 32) * len(choices) >> 32]
    return group[(pick & 0xFFFFFFFF) * len(group) >> 32]


def draws_of(keys: np.ndarray, size: int) -> tuple[list[list[int]], list[list[int]]]:
    """The draws and picks that `switch` makes for rows of `size` read tokens."""
    draws = draw32((keys >> np.uint64(32)).astype(np.uint32), size)
    return draws.tolist(), hash64(keys[:, None], "choice", np.arange(size)).tolist()
