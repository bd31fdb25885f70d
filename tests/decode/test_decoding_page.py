import re
from pathlib import Path

import numpy as np

from miil21k.hierarchy.concepts import concepts_of

PAGE = Path(__file__).parents[2] / "docs" / "decoding.md"


def test_the_example_of_the_decoding_page_runs_and_stays_among_dogs() -> None:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    names = {"logits": (3 * np.random.default_rng(0).standard_normal((4, 11221))).astype(np.float32)}
    exec(code, names)
    decoder, found = names["decoder"], names["found"]
    graph = concepts_of(decoder.space)
    dogs = graph.classes(graph.index_of["n02084071"])
    for row in found.path.nodes:
        assert graph.name(row[0]) == "animal"
        assert row[row >= 0][-1] in dogs  # greyhounds too, which the published tree keeps elsewhere
    assert decoder.allowed[found.topk(5).classes].all()
