"""What mkdocs does to every page of this site before it writes it.

Three things. A page's Python is run while the page is built, top to bottom in one namespace, and
what it prints and draws is shown beneath it: a page that does not run is not built. LaTeX between
dollars becomes MathML, which browsers draw without a script. And a link that leaves the pages for a
file of the repository, written as the relative path that it has there, leads to that file's source
or to its picture, as a page of the site: so it works in the clone, online and from a disk.

A block that draws leaves its figure in a variable ``figure``, and its fence says what is seen::

    ```python caption="Where the mass went"
"""

import contextlib
import html
import io
import linecache
import os
import posixpath
import re
import sys
import textwrap
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urldefrag

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import matplotlib

matplotlib.use("agg")

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from experiments.catalogue import ROOT
from figures import style

REPOSITORY = "repository"
"""The folder of the site that shows files of the repository."""

PICTURES = (".svg", ".png", ".gif", ".jpg")
LANGUAGES = {".py": "py", ".js": "js", ".md": "markdown", ".toml": "toml", ".yml": "yaml"}
"""How a file is coloured, by its ending. Never ``python``: blocks of that name are run."""

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)(?P<rest>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.DOTALL | re.MULTILINE,
)
"""A block of code between fences, which may stand inside a list or a note."""

NAMED_FUNCTION = re.compile(r"(<m[io]>(?:log|exp|max|min)</m[io]>(?!<mo))")
"""A function and its argument, which a browser would print as one word."""

CAPTION = re.compile(r'caption="([^"]+)"')
LINK = re.compile(r"(?P<text>\]\()(?P<target>[^)\s]+)")


class Output(NamedTuple):
    """What a block of code left behind.

    Attributes:
        printed: everything it wrote to standard output.
        figure: the matplotlib figure that it put into a variable ``figure``, if it did.
    """

    printed: str
    figure: Figure | None


def blocks_of(text: str, language: str) -> list[str]:
    """The code of every fenced block in one language, in the order of the page.

    Args:
        text: Markdown.
        language: the word behind the opening fence.
    """
    return [code_of(fence) for fence in FENCE.finditer(text) if fence["language"] == language]


def code_of(fence: re.Match[str]) -> str:
    """What stands between the fences, without the indentation it shares."""
    return textwrap.dedent(fence["code"])


def run_python(blocks: Iterable[str], name: str = "page") -> list[Output]:
    """Run blocks one after another in one namespace.

    Args:
        blocks: Python source.
        name: of what they belong to; tracebacks show it with the block's number, and its source.

    Returns:
        One output per block. A figure belongs to the block that put it into ``figure``.

    Raises:
        Exception: whatever a block raises, with the block's place noted on it.
    """
    # A module, and not a mere dict, because dataclasses ask for the module they were made in.
    module = types.ModuleType("page_" + re.sub(r"\W", "_", name))
    sys.modules[module.__name__] = module
    outputs = []
    try:
        for number, source in enumerate(blocks, start=1):
            place = f"<{name}, block {number}>"
            linecache.cache[place] = (len(source), None, source.splitlines(True), place)
            vars(module).pop("figure", None)
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                try:
                    exec(compile(source, place, "exec"), vars(module))
                except Exception as error:
                    error.add_note(f"in block {number} of {name}:\n{source}")
                    raise
            figure = vars(module).get("figure")
            shown = figure if isinstance(figure, Figure) else None
            outputs.append(Output(printed.getvalue(), shown))
    finally:
        plt.close("all")
        del sys.modules[module.__name__]
    return outputs


def plain_fence(fence: re.Match[str]) -> str:
    """A block of Python without the caption of what it draws; any other as it is."""
    if fence["language"] != "python":
        return fence[0]
    return textwrap.indent(f"```python\n{code_of(fence)}```", fence["indent"])


def vector_picture(figure: Figure) -> bytes:
    """A figure as SVG, the same bytes each time."""
    written = io.BytesIO()
    with matplotlib.rc_context(style.RC):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return written.getvalue()


def picture(address: str, caption: str) -> str:
    """Markup of a picture with its caption, which is also what stands for it where it is not seen.

    Args:
        address: relative to the page's Markdown.
        caption: in plain words.
    """
    seen = html.escape(caption)
    return (
        f'<figure markdown="span">![{seen}]({address}){{ loading=lazy }}'
        f'<figcaption aria-hidden="true">{seen}</figcaption></figure>'
    )


def with_outputs(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with what each of its Python blocks printed and drew beneath the block."""
    outputs = iter(run_python(blocks_of(markdown, "python"), page.file.src_uri))
    stem = page.file.src_uri.removesuffix(".md").replace("/", "-")
    drawn = 0

    def shown(fence: re.Match[str]) -> str:
        nonlocal drawn
        if fence["language"] != "python":
            return fence[0]
        output, parts = next(outputs), [f"```python\n{code_of(fence)}```"]
        if output.printed:
            parts.append(f"``` {{ .text .output }}\n{output.printed.rstrip()}\n```")
        if output.figure is not None:
            caption = CAPTION.search(fence["rest"])
            if caption is None:
                raise PluginError(
                    f'{page.file.src_uri}: a block draws, but its fence has no caption="...":\n'
                    f"{fence['code']}"
                )
            drawn += 1
            uri = f"pictures/{stem}-{drawn}.svg"
            files.append(File.generated(config, uri, content=vector_picture(output.figure)))
            address = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
            parts.append(picture(address, caption[1]))
        return textwrap.indent("\n\n".join(parts), fence["indent"])

    return FENCE.sub(shown, markdown)


class Formula(InlineProcessor):
    """``$...$`` within a line and ``$$...$$`` on its own, as MathML."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Any, int, int]:
        """Convert one formula; Markdown names the method."""
        return self.md.htmlStash.store(mathml(m["line"], m["block"])), m.start(0), m.end(0)


def mathml(line: str | None, block: str | None) -> str:
    """LaTeX as MathML: either a formula within a line, or one that stands alone."""
    display = "inline" if block is None else "block"
    markup = convert((line or block or "").strip(), display=display)
    return NAMED_FUNCTION.sub(r'\1<mspace width="0.17em"/>', markup)


class Formulas(Extension):
    """The Markdown extension that reads LaTeX; after code and before everything else."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register the pattern; Markdown names the method."""
        line = r"\$(?![\s$])(?P<line>(?:[^$\\]|\\.)+?)(?<!\s)\$(?![\d$])"
        block = r"\$\$(?P<block>(?:[^$\\]|\\.)+?)\$\$"
        md.inlinePatterns.register(Formula(rf"(?<![\\\w$])(?:{block}|{line})", md), "formula", 185)


def outside(page_uri: str, target: str) -> Path | None:
    """The file of the repository that a link leaves the pages for; None if it stays inside.

    Raises:
        PluginError: if there is no such file.
    """
    if re.match(r"[a-z]+:|#|/", target):
        return None
    uri = posixpath.normpath(posixpath.join("docs/pages", posixpath.dirname(page_uri), target))
    if uri.startswith("docs/pages/"):
        return None
    path = ROOT / uri
    if not path.is_file():
        raise PluginError(f"{page_uri} links to {target}, and {uri} is no file of the repository.")
    return path


def repository_file(path: Path, config: MkDocsConfig) -> File:
    """A picture as it is, or a page with a file's source, its lines numbered."""
    name = path.relative_to(ROOT).as_posix()
    if path.suffix in PICTURES:
        return File.generated(config, f"{REPOSITORY}/{name}", abs_src_path=str(path))
    source = path.read_text(encoding="utf-8").rstrip()
    longest = max((len(ticks) for ticks in re.findall(r"`{3,}", source)), default=2)
    fence, language = "`" * (longest + 1), LANGUAGES.get(path.suffix, "text")
    title = name.replace("_", r"\_")
    text = (
        f"---\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n# {title}\n\n"
        f'{fence}{language} linenums="1"\n{source}\n{fence}\n'
    )
    return File.generated(
        config, f"{REPOSITORY}/{name}.md", content=text, inclusion=InclusionLevel.NOT_IN_NAV
    )


def rerouted(markdown: str, page_uri: str, config: MkDocsConfig, files: Files) -> str:
    """The page with its links to files of the repository turned to where the site shows them.

    Pictures are added to the site here; sources are pages, which must be there from the beginning.
    """

    def turned(link: re.Match[str]) -> str:
        target, fragment = urldefrag(link["target"])
        path = outside(page_uri, target)
        if path is None:
            return link[0]
        name = path.relative_to(ROOT).as_posix()
        uri = f"{REPOSITORY}/{name}" + ("" if path.suffix in PICTURES else ".md")
        if path.suffix in PICTURES and files.get_file_from_path(uri) is None:
            files.append(repository_file(path, config))
        line = re.fullmatch(r"L(\d+)", fragment)
        address = posixpath.relpath(uri, posixpath.dirname(page_uri) or ".")
        return link["text"] + address + (f"#__span-0-{line[1]}" if line else "")

    return LINK.sub(turned, markdown)


def on_config(config: MkDocsConfig) -> None:
    """Teach Markdown to read formulas."""
    extensions: list[Any] = config.markdown_extensions
    extensions.append(Formulas())


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add every file of the repository that a page links to."""
    paths = {
        path
        for file in files.documentation_pages()
        for link in LINK.finditer(FENCE.sub("", file.content_string))
        if (path := outside(file.src_uri, urldefrag(link["target"])[0])) is not None
    }
    for path in sorted(paths):
        if path.suffix not in PICTURES:
            files.append(repository_file(path, config))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Run a page's code and turn its links; files of the repository are shown as they are.

    Pages named in the configuration's ``extra.unrun`` are shown without what their code prints and
    draws, for whoever runs it elsewhere.
    """
    uri = page.file.src_uri
    if uri.startswith(f"{REPOSITORY}/"):
        return markdown
    markdown = rerouted(markdown, uri, config, files)
    if uri in config.extra.get("unrun", ()):
        return FENCE.sub(plain_fence, markdown)
    return with_outputs(markdown, page, config, files)
