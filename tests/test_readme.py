"""What the README shows is run: its code, its commands by name, its links."""

import re

from experiments.catalogue import CATALOGUE, GROUPS, ROOT
from modeseek.cli import COMMANDS, EXAMPLES

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_in_the_readme_runs(capsys):
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    loss, gradient, rewards = capsys.readouterr().out.strip().splitlines()
    assert loss.startswith("0.62")
    assert gradient.startswith("[-")
    first, last = map(float, rewards.split())
    assert last > first


def test_every_command_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)|`make (\w+)`", README, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target
    for command in re.findall(r"modeseek (\w+) ?(\w*)", README):
        if command[0] in COMMANDS and command[0] == "reproduce" and command[1]:
            assert command[1] in CATALOGUE | GROUPS, command
    for line, _ in EXAMPLES:
        assert line.split()[1] in COMMANDS


def test_no_link_of_the_readme_is_dead():
    for page in ("README.md", "experiments/README.md"):
        folder = (ROOT / page).parent
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (folder / link).exists(), f"{page}: {link}"
