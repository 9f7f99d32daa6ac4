"""What the site adds to docs/: the README as its first page, pages of the root, and an API page for each package."""

import re
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OWN = {"README.md": "index.md", **{name: name for name in ("BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md")}}
"""Pages of the root, and where they stand on the site."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
PACKAGES = sorted(
    path.parent.name for path in (ROOT / "src/monosem").glob("*/__init__.py") if path.parent.name != "cli"
)


def on_files(files: Files, config: Any) -> Files:
    """Pages that do not lie under docs/, and those that are written here."""
    for name, place in OWN.items():
        text = (ROOT / name).read_text()
        files.append(File.generated(config, place, content=_moved(text, name, place, files)))
    for package in ["monosem", *PACKAGES]:
        files.append(File.generated(config, f"api/{package}.md", content=_api(package)))
    files.append(File.generated(config, "api/index.md", content=_contents()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that leave docs/ go to the page of the root, or lose their target where the site has none."""
    place = page.file.src_uri
    return (
        markdown
        if place in OWN.values() or place.startswith("api/")
        else _moved(markdown, f"docs/{place}", place, files)
    )


def _moved(text: str, source: str, place: str, files: Files) -> str:
    """The same text with its links as they are seen from `place`."""
    known = {f"docs/{file.src_uri}": file.src_uri for file in files} | OWN

    def link(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        if re.match(r"[a-z]+:|#|mailto:", target):
            return match[0]
        path, _, anchor = target.partition("#")
        whole = normpath(join(dirname(source), path))
        whole = whole if whole in known else f"{whole}/README.md"
        if whole not in known:
            return words
        steps = "../" * place.count("/")
        return f"{image}[{words}]({steps}{known[whole]}{'#' + anchor if anchor else ''})"

    pieces = FENCE.split(text)
    return "".join(piece if number % 2 else LINK.sub(link, piece) for number, piece in enumerate(pieces))


def _modules(package: str) -> list[str]:
    """The public modules of a package; of `monosem` itself, those that lie beside the packages."""
    folder = ROOT / "src/monosem" / ("" if package == "monosem" else package)
    paths = folder.glob("*.py") if package == "monosem" else folder.rglob("*.py")
    names = [path.relative_to(ROOT / "src").with_suffix("").as_posix().replace("/", ".") for path in sorted(paths)]
    return [name for name in names if not any(part.startswith("_") for part in name.split("."))]


def _api(package: str) -> str:
    title = "monosem" if package == "monosem" else f"monosem.{package}"
    return "\n\n".join([f"# {title}", *(f"::: {name}" for name in _modules(package))])


def _contents() -> str:
    lines = [f"- [monosem.{package}]({package}.md)" for package in PACKAGES]
    return "\n".join(["# API", "", "- [monosem](monosem.md)", *lines])
