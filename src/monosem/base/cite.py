"""Citations, as values that the method table carries and `monosem cite` prints."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Citation:
    """One publication.

    Example:
        >>> Citation("gao2024", "Gao et al.", "Scaling and evaluating sparse autoencoders", 2024, "2406.04093").short
        'Gao et al. (2024), arXiv 2406.04093'
    """

    key: str
    authors: str
    title: str
    year: int
    arxiv: str = ""
    venue: str = ""

    @property
    def short(self) -> str:
        """Authors (year), where."""
        where = f"arXiv {self.arxiv}" if self.arxiv else self.venue
        return f"{self.authors} ({self.year})" + (f", {where}" if where else "")

    @property
    def bibtex(self) -> str:
        """A BibTeX entry."""
        rows = {"author": self.authors, "title": self.title, "year": str(self.year)}
        if self.arxiv:
            rows |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        if self.venue:
            rows["howpublished"] = self.venue
        body = "".join(f"  {name} = {{{value}}},\n" for name, value in rows.items())
        return f"@misc{{{self.key},\n{body}}}"
