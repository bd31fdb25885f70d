"""Every noun of WordNet 3.0: its senses in their order of use, tag counts and hypernyms. No glosses.

`label_spaces/nouns.tsv.gz` is opened only for what no concept of a label space answers: a noun whose classes a head
does not have, or a wnid outside of ImageNet. One line per synset in wnid order: wnid, hypernyms joined by spaces (`-`
for the root; instance hypernyms count), lemmas joined by `|`. A lemma that has several senses or a tag count says
behind `#` which sense this is, and behind `:` how often it was tagged (`dog#1:42`).
`miil21k tree build nouns` makes the file.
"""

from __future__ import annotations

import re
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from miil21k.text import near_names

__all__ = [
    "ENDINGS",
    "NOUNS_FILE",
    "Lemma",
    "Nouns",
    "fold",
    "lines_naming",
    "parse_lemma",
    "singulars",
    "wordnet_nouns",
]

NOUNS_FILE = Path(__file__).parent / "label_spaces" / "nouns.tsv.gz"


class Lemma(NamedTuple):
    """A word for a synset.

    sense: which meaning of the word the synset is, in WordNet's order of use, from 1; 0 for words of no WordNet.
    tagged: how often the word had this meaning in the texts that WordNet counted.
    """

    word: str
    sense: int
    tagged: int


def parse_lemma(text: str) -> Lemma:
    """Return the lemma that stands in a file as `dog#1:42`, or as `pug` where the word has one meaning."""
    word, _, rest = text.partition("#")
    sense, _, tagged = rest.partition(":")
    return Lemma(word, int(sense or 1), int(tagged or 0))


class Nouns:
    """Looks into the text of the file; a question costs a search, not a parse of 82,115 lines."""

    def __init__(self, text: str) -> None:
        self._text = "\n" + text

    @cached_property
    def _folded(self) -> str:
        return self._text.casefold()

    def __contains__(self, wnid: str) -> bool:
        return self._line(wnid) is not None

    def _line(self, wnid: str) -> list[str] | None:
        start = self._text.find(f"\n{wnid}\t") + 1
        return self._text[start : self._text.index("\n", start)].split("\t") if start else None

    def hypernym_text(self, wnid: str) -> str:
        """Return the direct hypernyms, joined by spaces, `-` for none; KeyError for what is no noun."""
        line = self._line(wnid)
        if line is None:
            raise KeyError(wnid)
        return line[1]

    def lemma_text(self, wnid: str) -> str:
        """Return the lemmas with their senses, as in the file; KeyError for what is no noun."""
        line = self._line(wnid)
        if line is None:
            raise KeyError(wnid)
        return line[2]

    def senses(self, noun: str) -> list[tuple[str, Lemma]]:
        """Return (wnid, lemma) of the meanings of `noun` in their order of use; none for what WordNet does not know."""
        text, found = self._folded, []
        for match in re.finditer(re.escape(fold(noun)) + r"(?:#[\d:]+)?(?=[|\n])", text):
            if text[match.start() - 1] in "\t|":
                line = text.rindex("\n", 0, match.start()) + 1
                found.append((text[line : line + 9], parse_lemma(match[0])))
        return sorted(set(found), key=lambda meaning: meaning[1].sense)

    def near(self, noun: str, count: int = 3) -> list[str]:
        """Return nouns that are spelled most like `noun` and begin alike, best first."""
        wanted = fold(noun)
        pattern = (
            rf"(?<=[\t|]){re.escape(wanted[:1])}[^#|\n\t]{{{max(0, len(wanted) - 3)},{len(wanted) + 1}}}(?=[#|\n])"
        )
        return near_names(wanted, sorted(set(re.findall(pattern, self._folded))), most=count, alike=0.75)


def fold(text: str) -> str:
    """Return `text` as nouns are compared: without case, underscores or repeated spaces."""
    return " ".join(text.replace("_", " ").casefold().split())


def lines_naming(text: str, word: str) -> list[int]:
    """Return which lines of `text` hold the folded `word` as a field or as one of the words of a field, ascending.

    text: case-folded, a line break in front of each line and behind the last; fields are separated by tabs, words by
    `|`, each with its sense or without.
    """
    blank = r"[^\S\n\t]"
    # The pattern begins with letters, for which the search is fast; what stands before is looked at afterwards.
    whole = rf"{f'{blank}+'.join(map(re.escape, word.split()))}{blank}*(?:#[\d:]+)?(?=[|\t\n])"
    starts = [match.start() for match in re.finditer(whole, text)]
    return [text.count("\n", 0, at) - 1 for at in starts if re.search(rf"[\n\t|]{blank}*$", text[max(0, at - 8) : at])]


# Detachment rules for nouns of morphy(7WN).
ENDINGS = (
    ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
    ("men", "man"), ("ies", "y"), ("s", ""),
)  # fmt: skip


def singulars(noun: str) -> list[str]:
    """Return what `noun` may be the plural of, by WordNet's rules of detachment."""
    return [noun[: -len(old)] + new for old, new in ENDINGS if noun.endswith(old) and len(noun) > len(old)]


@cache
def wordnet_nouns() -> Nouns:
    """Return the index of all nouns, read once per process."""
    import gzip

    return Nouns(gzip.decompress(NOUNS_FILE.read_bytes()).decode())
