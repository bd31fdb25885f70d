"""Corrections from Label Studio: python examples/label_studio.py EXPORT.json CONFIG.xml > corrections.csv.

EXPORT.json is Label Studio's export in its format JSON, of a project that was made from

    miil21k labels photos.index -f labelstudio -o tasks.json

and CONFIG.xml the labelling configuration as the project has it now: Label Studio exports the names of choices alone,
and the configuration says which wnid each is. A choice that was added there without a `hint` is read as a noun. Then

    miil21k labels photos.index -o train.csv --corrections corrections.csv --only-corrected

Exit code: 0, or 2 if the two files do not belong together. Needs Python alone.
"""

import csv
import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def label_of(taxonomy: ET.Element, chain: list[str]) -> str:
    """Return the wnid at the end of a chain of choices, else its name."""
    place = taxonomy
    for name in chain:
        below = {choice.get("value"): choice for choice in place.findall("Choice")}
        if name not in below:
            raise ValueError(f"the configuration has no choice {' > '.join(chain)!r}: export it again")
        place = below[name]
    return place.get("hint") or chain[-1]


def corrections(tasks: list[dict], taxonomy: ET.Element) -> list[tuple[str, str, str]]:
    """Return (path, label, verdict) of each task that somebody submitted; of several annotations the last one."""
    rows = []
    for task in tasks:
        given = [one for one in task.get("annotations", []) if not one.get("was_cancelled")]
        if not given:
            continue
        chains = [chain for result in given[-1]["result"] for chain in result["value"].get("taxonomy", [])]
        path = task["data"]["path"]
        rows.append((path, label_of(taxonomy, chains[-1]), "is") if chains else (path, "", "wrong"))
    return rows


def main(export: str, config: str) -> int:
    try:
        tasks = json.loads(Path(export).read_text(encoding="utf-8"))
        taxonomy = ET.parse(config).getroot().find(".//Taxonomy")  # noqa: S314 - a file of your own project
        if taxonomy is None:
            raise ValueError("the configuration has no Taxonomy: give the one of the project")
        rows = corrections(tasks, taxonomy)
    except (OSError, ValueError, KeyError, ET.ParseError) as error:
        print(f"'{export}' cannot be read with '{config}': {error}.", file=sys.stderr)
        return 2
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("path", "label", "verdict"))
    writer.writerows(rows)
    print(f"{len(rows)} of {len(tasks)} pictures were looked at", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
