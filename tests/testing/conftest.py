"""Makes the small parts beside these tests importable by name, as a part's target has to be."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
