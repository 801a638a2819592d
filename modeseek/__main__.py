"""``python -m modeseek`` is ``modeseek``."""

from modeseek.cli import main

main()
