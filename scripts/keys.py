"""Print the lines of PINNED in tests/test_keys.py with the keys of today, to paste there after NUMERICS was raised.

python scripts/keys.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from test_keys import PINNED, key


def line(overrides: tuple[str, ...]) -> str:
    """Return the line of one run."""
    words = ", ".join(map(json.dumps, overrides)) + ("," if len(overrides) == 1 else "")
    return f'    ({words}): "{key(overrides)}",'


if __name__ == "__main__":
    print("\n".join(map(line, PINNED)))
