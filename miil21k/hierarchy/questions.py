"""What a question asks about: a noun, a wnid or a synset name becomes one concept that has classes, or a clear refusal.

Of several meanings of a noun that have classes, the first in WordNet's order of use is taken that was tagged at least
twice as often as every other, or was tagged and has at least as many classes as every other, or holds the classes of
all others. (The order of meanings that were never tagged says nothing.) Else the only one whose first name the noun is
(*cake* is a cake before it is a patty); else one that has more than twice as many classes as every other. Else nothing
says which is meant (*crane*), and the question is refused with the list of its meanings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miil21k.errors import UnknownClass
from miil21k.hierarchy.nouns import Lemma, fold, parse_lemma, singulars, wordnet_nouns
from miil21k.text import near_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from miil21k.hierarchy.concepts import Concepts

__all__ = ["Question", "find_meanings", "near_nouns", "nearest_with_classes", "resolve", "wordnet_meanings"]

_SYNSET = re.compile(r"(.+)\.n\.(\d+)")  # crane.n.04, as nltk writes it
Meaning = tuple[int, Lemma]


@dataclass(frozen=True)
class Question:
    """A question and the concept that answers it.

    text: as it was asked. concept: its index. others: the other meanings that have classes, in their order of use.
    """

    text: str
    concept: int
    others: tuple[int, ...] = ()

    def note(self, concepts: Concepts) -> str | None:
        """Return one line that says which meaning was taken, when there are several."""
        if not self.others:
            return None
        rest = "; ".join(_described(concepts, other) for other in self.others)
        return f"'{self.text}' is read as {_described(concepts, self.concept)}; not as {rest}. A wnid says which."


def resolve(concepts: Concepts, text: str, shown: NDArray[np.bool_] | None = None) -> Question:
    """Return which concept `text` asks about: a noun (singular or plural), a wnid or a synset name (`crane.n.04`).

    shown: bool [C], the classes that count; all by default. A concept without any is no answer.
    Raises UnknownClass: for a noun of several meanings, which it lists; for one without classes, with the nearest
    concept that has some; for a word that WordNet does not know, with near ones.
    """
    counts = concepts.num_below if shown is None else concepts.count(shown)
    meanings = find_meanings(concepts, text)
    alive = [meaning for meaning in meanings if counts[meaning[0]]]
    if not alive:
        raise UnknownClass(_why_not(concepts, text, counts, meanings))
    chosen = alive[0][0] if len(alive) == 1 else _meant(concepts, alive, counts)
    if chosen is None:
        listed = "; ".join(f"{_described(concepts, concept)}, {_counted(counts[concept])}" for concept, _ in alive)
        raise UnknownClass(
            f"'{text}' has {len(alive)} meanings with classes of '{concepts.space.name}': {listed}. "
            "Ask for one by its wnid."
        )
    return Question(text, chosen, tuple(concept for concept, _ in alive if concept != chosen))


def _meant(concepts: Concepts, meanings: list[Meaning], counts: NDArray[np.int32]) -> int | None:
    """Return which of several meanings, in WordNet's order of use, people mean; None where nothing says so."""
    for concept, lemma in meanings:
        rest = [other for other in meanings if other[0] != concept]
        used = all(lemma.tagged >= 2 * other.tagged for _, other in rest)
        large = all(counts[concept] >= counts[other] for other, _ in rest)
        if (lemma.tagged and (used or large)) or _holds(concepts, concept, rest):
            return concept
    own = [concept for concept, lemma in meanings if lemma.word == concepts.name(concept)]
    if len(own) == 1:
        return own[0]
    first, second = sorted((concept for concept, _ in meanings), key=lambda concept: -counts[concept])[:2]
    return first if counts[first] > 2 * counts[second] else None


def _holds(concepts: Concepts, concept: int, rest: list[Meaning]) -> bool:
    held = set(concepts.classes(concept).tolist())
    return all(held.issuperset(concepts.classes(other).tolist()) for other, _ in rest)


def find_meanings(concepts: Concepts, text: str) -> list[Meaning]:
    """Return the concepts that `text` may mean, in WordNet's order of use; none for what is no concept."""
    text = text.strip()
    if text in concepts.index_of:
        return [(concepts.index_of[text], Lemma(text, 0, 0))]
    synset = _SYNSET.fullmatch(text)
    if synset is not None:
        return [m for m in concepts.meanings(fold(synset[1])) if m[1].sense == int(synset[2])]
    word = fold(text)
    found = (concepts.meanings(known) for known in [word, *singulars(word)])
    return _distinct(next((meanings for meanings in found if meanings), []))


def _distinct(meanings: Iterable[Meaning]) -> list[Meaning]:
    """Return each concept once: a synset may have two lemmas that differ by case alone."""
    return list({concept: (concept, lemma) for concept, lemma in reversed(list(meanings))}.values())[::-1]


def _why_not(concepts: Concepts, text: str, counts: NDArray[np.int32], meanings: list[Meaning]) -> str:
    space = concepts.space.name
    known = [concepts.wnids[concept] for concept, _ in meanings] or wordnet_meanings(text)
    if known:
        near = nearest_with_classes(concepts, text, known, counts)
        said = f"'{text}' ({near[0] if near else known[0]}) has no class of '{space}' at or below it."
        if near is not None:
            said += f" The nearest concept that has some: {_described(concepts, near[1])}, {_counted(counts[near[1]])}."
        return said
    near_words = near_nouns(concepts, text)
    hint = f" Near: {', '.join(repr(word) for word in near_words)}." if near_words else ""
    return f"'{text}' is no concept of '{space}' and no noun of WordNet 3.0.{hint}"


def wordnet_meanings(text: str) -> list[str]:
    """Return the wnids that `text` may mean among all nouns of WordNet."""
    nouns = wordnet_nouns()
    if text.strip() in nouns:
        return [text.strip()]
    synset = _SYNSET.fullmatch(text.strip())
    if synset is not None:
        return [wnid for wnid, lemma in nouns.senses(synset[1]) if lemma.sense == int(synset[2])]
    word = fold(text)
    found = (nouns.senses(known) for known in [word, *singulars(word)])
    return [wnid for wnid, _ in next((senses for senses in found if senses), [])]


def nearest_with_classes(
    concepts: Concepts, text: str, wnids: list[str], counts: NDArray[np.int32]
) -> tuple[str, int] | None:
    """Return the meaning of `text` that lies fewest edges below a concept with classes, and that concept.

    wnids: the meanings, in their order of use. Of equals the one whose first name `text` is, then the one used more;
    of concepts equally near to it the most informative. None where none of them lies below any.
    """
    nouns, word = wordnet_nouns(), fold(text)
    found = []
    for order, wnid in enumerate(wnids):
        steps, level, alive = 0, {wnid}, list[int]()
        while level and not alive:
            steps += 1
            level = {up for one in level if one in nouns for up in nouns.hypernym_text(one).split() if up != "-"}
            near = [concepts.index_of[one] for one in level if one in concepts.index_of]
            alive = [concept for concept in near if counts[concept]]
        if alive:
            name = fold(parse_lemma(nouns.lemma_text(wnid).partition("|")[0]).word)
            best = min(alive, key=lambda concept: (counts[concept], concept))
            found.append((steps, name not in (word, *singulars(word)), order, wnid, best))
    return min(found)[3:] if found else None


def near_nouns(concepts: Concepts, text: str, count: int = 3) -> list[str]:
    """Return words that are spelled most like `text`: of the concepts first, then of all nouns; wnids like a wnid."""
    wanted = fold(text)
    if wanted[:1] == "n" and wanted[1:].isdecimal():
        return near_names(wanted, concepts.wnids, most=count, alike=0.8)
    alike = [word for word in concepts.named if word[:1] == wanted[:1] and abs(len(word) - len(wanted)) <= 2]
    found = near_names(wanted, alike, most=count, alike=0.75)
    return found or wordnet_nouns().near(wanted, count)


def _described(concepts: Concepts, concept: int) -> str:
    gloss = concepts.gloss(concept)
    return f"{concepts.name(concept)} ({concepts.wnids[concept]}{f': {gloss}' if gloss else ''})"


def _counted(classes: int) -> str:
    return f"{classes} class{'' if classes == 1 else 'es'}"
