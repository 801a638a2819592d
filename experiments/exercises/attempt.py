"""One script of a student, run in a process of its own: its verdict goes to a file.

``python -m experiments.exercises.attempt SCRIPT FILE`` is what the grader starts. A script that
ends without a verdict of its last cell has none.
"""

import json
import runpy
import sys
from dataclasses import asdict
from pathlib import Path


def main() -> None:
    """Run the script and keep what its last cell called ``verdict``."""
    script, file = sys.argv[1:]
    verdict = runpy.run_path(script, run_name="__main__").get("verdict")
    if verdict is not None:
        Path(file).write_text(json.dumps(asdict(verdict)), encoding="utf-8")


if __name__ == "__main__":
    main()
