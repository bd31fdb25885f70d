import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "decoding.md"


def test_the_example_of_the_decoding_page_runs_and_stays_among_dogs() -> None:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    names = {"logits": (3 * np.random.default_rng(0).standard_normal((4, 11221))).astype(np.float32)}
    exec(code, names)
    decoder, found = names["decoder"], names["found"]
    tree = decoder.space.tree
    for row in found.path.nodes:
        assert [tree.names[node] for node in row[:3]] == ["animal", "domestic animal", "dog"]
    assert decoder.allowed[found.topk(5).classes].all()
