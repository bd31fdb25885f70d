"""Build the shipped label spaces from WordNet 3.0, read through nltk. Anyone can rerun it: same bytes.

A wnid is `n` and the offset of a noun synset in WordNet 3.0. The parent of a class is its nearest hypernym that is a
class. WordNet is no tree: a synset may have several hypernyms, so one of them has to be chosen. In this order:

1. The choice that stands in `hypernym_choices.tsv`: 144 synsets. The official semantic tree of ImageNet-21K-P
   (winter21) chose among several possible parents for 311 of its classes, by no rule that could be found. The
   table holds just the choices that reproduce all 10,450 official parents and that rule 2 would not give by itself:
   120 against its order, and 24 where the official tree has a root although another hypernym leads to a class.
2. The rule, for every other synset with several hypernyms: those that are a class, or have one above them, before
   those that lead to none; then those from the synset's own lexicographer file (a person stays a person: *priest* goes
   to *clergyman*, not to *holy order*), among them the one with the shortest hypernym chain up to the root, among
   those the one with the lowest offset.

A choice of the table belongs to a synset, not to a label space, so fall11 and goog21k reuse those of winter21, and the
71 person classes that winter21 lacks and that have several possible parents in fall11 follow from the same two steps.
Instance hypernyms count as hypernyms.
"""

from __future__ import annotations

import io
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.errors import Miil21kError, UnknownClass, UsageError
from miil21k.hierarchy.bridge import bridge
from miil21k.hierarchy.concept_files import CONCEPT_COLUMNS, CONCEPT_HEADER
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

__all__ = [
    "WORDNET_FOLDERS",
    "WordNet",
    "build_concepts",
    "build_label_space",
    "build_nouns",
    "class_list",
    "find_wordnet",
    "open_wordnet",
]

# Where operating systems keep WordNet 3.0 (Debian and Fedora; Homebrew).
WORDNET_FOLDERS = (
    Path("/usr/share/wordnet"),
    Path("/usr/share/wordnet-3.0/dict"),
    Path("/opt/homebrew/opt/wordnet/dict"),
)
_CLASS_LISTS = {
    "fall11": "imagenet21k_miil_synsets.txt",
    "winter21": "imagenet21k_miil_w21_synsets.txt",
    "goog21k": "imagenet21k_goog_synsets.txt",
    "in1k": "imagenet_synsets.txt",
}
# The names of WordNet's 45 lexicographer files, in the order of their numbers (manual page lexnames(5WN)).
# nltk wants them as a file, which Debian's package leaves out.
_LEXICOGRAPHER_FILES = """
adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition
noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person
noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state
noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition verb.consumption
verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative
verb.weather adj.ppl
"""


class WordNet:
    """The nouns of WordNet 3.0, and which of its hypernyms a synset hangs from."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._synsets: dict[str, Any] = {}

    def synset(self, wnid: str) -> Any:
        """Return nltk's synset of `wnid`; raises UnknownClass where WordNet 3.0 has no such noun."""
        if wnid not in self._synsets:
            digits = wnid[1:]
            found = None
            if wnid[:1] == "n" and len(digits) == 8 and digits.isdecimal():
                try:
                    found = self._reader.synset_from_pos_and_offset("n", int(digits))
                except Exception:  # nltk raises several types for an offset inside a line
                    found = None
            if found is None:
                raise UnknownClass(f"'{wnid}' is no noun of WordNet 3.0; a wnid is 'n' and eight digits.")
            self._synsets[wnid] = found
        return self._synsets[wnid]

    def words(self, wnid: str) -> tuple[str, str]:
        """Return the lemmas of `wnid`, joined by `|`, and its gloss."""
        synset = self.synset(wnid)
        return "|".join(name.replace("_", " ") for name in synset.lemma_names()), synset.definition()

    def hypernyms(self, wnid: str) -> list[str]:
        """Return the direct hypernyms, those of an instance too, ascending (nltk gives them in no order)."""
        synset = self.synset(wnid)
        return sorted(f"n{above.offset():08d}" for above in synset.hypernyms() + synset.instance_hypernyms())

    def line(self, wnid: str) -> str:
        """Return the line of `wnid` in the files of concepts and of nouns: wnid, hypernyms, lemmas with senses."""
        synset = self.synset(wnid)
        lemmas = (self._with_sense(lemma, synset.offset()) for lemma in synset.lemma_names())
        return f"{wnid}\t{' '.join(self.hypernyms(wnid)) or '-'}\t{'|'.join(lemmas)}"

    def _with_sense(self, lemma: str, offset: int) -> str:
        number, count = self._senses[lemma.lower()][offset]
        several = len(self._senses[lemma.lower()]) > 1
        sense = (f"#{number}" if several or count else "") + (f":{count}" if count else "")
        return lemma.replace("_", " ") + sense

    @cached_property
    def _senses(self) -> dict[str, dict[int, tuple[int, int]]]:
        """Lemma -> offset -> (sense number, tag count) of every noun; nltk would search the file for each."""
        found: dict[str, dict[int, tuple[int, int]]] = {}
        with self._reader.open("index.sense") as lines:
            for line in lines:
                key, offset, number, count = line.split()
                lemma, _, rest = key.partition("%")
                if rest[0] == "1":
                    found.setdefault(lemma, {})[int(offset)] = (int(number), int(count))
        return found

    def every_noun(self) -> list[str]:
        """Return all 82,115 wnids, ascending."""
        return sorted(f"n{synset.offset():08d}" for synset in self._reader.all_synsets("n"))

    def candidates(self, wnid: str) -> list[str]:
        """Return the hypernyms of `wnid`, best first: that of the table alone, or all in the order of the rule."""
        chosen = hypernym_choices().get(wnid)
        if chosen:
            return [chosen]
        synset = self.synset(wnid)
        own = synset.lexname()
        above = synset.hypernyms() + synset.instance_hypernyms()
        above.sort(key=lambda s: (s.lexname() != own, s.min_depth(), s.offset()))
        return [f"n{s.offset():08d}" for s in above]

    def nearest(self, wnid: str, among: Container[str]) -> str | None:
        """Return the nearest hypernym of `wnid` that is in `among`; None when none of its hypernyms leads to one."""
        for above in self.candidates(wnid):
            found = above if above in among else self.nearest(above, among)
            if found is not None:
                return found
        return None


@cache
def hypernym_choices() -> dict[str, str]:
    """Return synset wnid -> hypernym wnid for the 144 choices that the rule does not give."""
    text = (Path(__file__).parent / "hypernym_choices.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t")[:2] for line in text.splitlines())


@contextmanager
def open_wordnet(folder: Path | None = None) -> Iterator[WordNet]:
    """Open WordNet 3.0: in `folder`, in an operating system's folder, or nltk's own corpus, in this order.

    Raises UsageError where none is found, Miil21kError without nltk or for another version than 3.0.
    """
    try:
        import nltk.data
    except ImportError:
        raise Miil21kError("Reading WordNet needs the package 'nltk': pip install nltk") from None
    if folder is not None and not (folder / "data.noun").is_file():
        raise UsageError(f"No WordNet in {folder}: expected the folder that holds 'data.noun'.")
    found = folder or find_wordnet()
    if found is None:
        raise UsageError(
            "WordNet 3.0 was not found: install it ('apt install wordnet-base', or 'python -m nltk.downloader wordnet' "
            "and unpack the archive), or name its folder with --wordnet DIR."
        )
    root = str(found.resolve())
    streams = ExitStack()
    added = root not in nltk.data.path
    if added:
        nltk.data.path.append(root)  # nltk reads only below these folders; it reads lazily, so until we are done
    try:
        try:
            reader = _reader(root, streams)
            version = reader.get_version()
        except (OSError, ValueError) as error:  # a file is missing, or nltk holds it for unsafe
            raise Miil21kError(f"nltk cannot read the WordNet in {root}: {error}") from None
        if version != "3.0":
            raise Miil21kError(f"{root} holds WordNet {version}; wnids are offsets of WordNet 3.0.")
        yield WordNet(reader)
    finally:
        streams.close()
        if added:
            nltk.data.path.remove(root)


def find_wordnet() -> Path | None:
    """Return the folder that `open_wordnet` reads when none is named, or None; no file is opened. Needs nltk."""
    return next((f for f in chain(WORDNET_FOLDERS, _nltk_corpora()) if (f / "data.noun").is_file()), None)


def _nltk_corpora() -> Iterator[Path]:
    import nltk.data  # only now: it takes seconds, and the system's folder is asked first

    yield from (Path(str(folder)) / "corpora" / "wordnet" for folder in nltk.data.path)


def _reader(root: str, streams: ExitStack) -> Any:
    """Return nltk's reader of the folder `root`; closing `streams` closes its files, which nltk leaves open."""
    import warnings

    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class EnglishReader(WordNetCorpusReader):  # type: ignore[misc]
        """nltk's reader, without the parts that need more than the English database."""

        def open(self, file: str) -> Any:
            if file == "lexnames":
                kinds = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
                files = enumerate(_LEXICOGRAPHER_FILES.split())
                return io.StringIO("".join(f"{n:02d}\t{f}\t{kinds[f.split('.')[0]]}\n" for n, f in files))
            return streams.enter_context(super().open(file))

        def map_wn(self, version: str = "wordnet") -> None:
            """Skip the map to nltk's own corpus: it serves other languages, and needs that corpus installed."""

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The multilingual functions")
        return EnglishReader(root, None)


def class_list(name: str) -> list[str]:
    """Return the class wnids of the shipped space `name` in logit order, from the lists that timm installs.

    Raises UsageError for a name that does not ship, Miil21kError where timm or its list is missing.
    """
    if name not in _CLASS_LISTS:
        raise UsageError(f"'{name}' is none of {', '.join(_CLASS_LISTS)}; give its wnids with --classes FILE.")
    from importlib.util import find_spec

    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise Miil21kError(f"The class list of '{name}' comes with timm (pip install timm); or use --classes FILE.")
    path = Path(spec.submodule_search_locations[0]) / "data" / "_info" / _CLASS_LISTS[name]
    if not path.is_file():
        raise Miil21kError(f"This timm has no class list {path.name}; give one wnid per line with --classes FILE.")
    return path.read_text(encoding="ascii").split()


def build_label_space(wordnet: WordNet, name: str, classes: Sequence[str]) -> LabelSpace:
    """Return the label space `name` over `classes` (wnids in logit order).

    `in1k` is bridged: its 1,000 classes keep their places in the winter21 tree (991 are classes there), the other 9
    hang from their nearest hypernym that is one, and the ancestors among the winter21 classes become inner nodes.
    Any other name: the classes are all the nodes. Raises UnknownClass for a wnid that is no noun of WordNet 3.0.
    """
    if name == "in1k":
        base = build_label_space(wordnet, "winter21", class_list("winter21"))
        return bridge(name, classes, base, lambda w: (wordnet.nearest(w, base.tree.index_of), wordnet.words(w)))
    known = frozenset(classes)
    words = [wordnet.words(wnid) for wnid in classes]
    lemmas = tuple(lemma for lemma, _ in words)
    names = tuple(text.partition("|")[0] for text in lemmas)
    tree = Tree.from_parents(classes, [wordnet.nearest(wnid, known) for wnid in classes], names)
    return LabelSpace(name, tree, lemmas, tuple(gloss for _, gloss in words))


def build_concepts(wordnet: WordNet) -> str:
    """Return the text of `label_spaces/concepts.tsv`: every class of a shipped space and every hypernym of one."""
    explained = frozenset(class_list("goog21k"))  # their glosses stand in goog21k.tsv
    found: set[str] = set()
    todo = [wnid for name in _CLASS_LISTS for wnid in class_list(name)]
    while todo:
        wnid = todo.pop()
        if wnid not in found:
            found.add(wnid)
            todo += wordnet.hypernyms(wnid)
    lines = [f"{wordnet.line(w)}\t{'' if w in explained else wordnet.words(w)[1]}" for w in sorted(found)]
    return "\n".join([f"{CONCEPT_HEADER}{len(lines)}", CONCEPT_COLUMNS, *lines]) + "\n"


def build_nouns(wordnet: WordNet) -> str:
    """Return the text inside of `label_spaces/nouns.tsv.gz`: one line for every noun synset."""
    return "\n".join(map(wordnet.line, wordnet.every_noun())) + "\n"
