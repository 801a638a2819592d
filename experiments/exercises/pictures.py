"""Where a picture of an exercise goes: to the notebook, to a window, or to a file."""

from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

FOLDER = Path("reproduced/exercises")
"""Of pictures, where there is no screen."""


def look(figure: Figure, name: str) -> None:
    """Show a figure, or save it where nothing can be shown.

    Args:
        figure: drawn with pyplot.
        name: of the file, without its ending.
    """
    if matplotlib.get_backend().lower() != "agg":
        plt.show()
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / f"{name}.svg"
    figure.savefig(file)
    plt.close(figure)
    print(f"picture: {file}")
