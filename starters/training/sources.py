"""Which Debian packages the data comes from, and which of them are only ever evaluated on. Pure data."""

from __future__ import annotations

__all__ = ["HELD_OUT", "HELD_OUT_FILES", "SKIPPED_FILES", "TRAIN", "is_held_out", "is_skipped", "language_of"]

HELD_OUT: tuple[str, ...] = (
    "r-doc-pdf", "gnuplot-doc", "debian-faq", "debian-faq-de", "debian-faq-fr", "debian-history", "debian-policy",
    "debian-reference-de", "debian-reference-en", "debian-reference-fr", "developers-reference",
    "developers-reference-de", "developers-reference-fr", "libtasn1-doc", "maint-guide", "maint-guide-de",
    "maint-guide-fr",
)  # fmt: skip
"""Packages whose pages are never trained on, in no format."""

TRAIN: tuple[str, ...] = (
    "asymptote-doc", "debian-handbook", "dict-foldoc", "dict-freedict-deu-eng", "dict-freedict-eng-deu",
    "dict-freedict-eng-fra", "dict-freedict-fra-eng", "gap-doc",
    "gimp-help-de", "gimp-help-en", "gimp-help-fr", "git-doc", "gnucash-docs", "gretl-doc", "installation-guide-amd64",
    "kicad-doc-de", "kicad-doc-en", "kicad-doc-fr", "libreoffice-help-de", "libreoffice-help-en-us",
    "libreoffice-help-fr", "lilypond-doc-pdf", "lilypond-doc-pdf-de", "lilypond-doc-pdf-fr", "linuxcnc-doc-de",
    "linuxcnc-doc-en", "linuxcnc-doc-fr", "maxima-doc", "octave-doc",
    "pari-doc", "postgresql-doc-15", "singular-doc", "sqlite3-doc", "texlive-humanities-doc",
    "texlive-lang-english", "texlive-lang-french", "texlive-lang-german", "texlive-latex-base-doc",
    "texlive-latex-recommended-doc", "texlive-publishers-doc", "texlive-science-doc", "vim-doc", "wordnet-base",
)  # fmt: skip

HELD_OUT_FILES: tuple[str, ...] = ("music-glossary",)
"""Parts of file names inside training packages that are held out all the same."""

SKIPPED_FILES: tuple[str, ...] = (
    "formation-latex-ul", "/changelog", "/genindex", "/copyright", "fullrefman",
)  # fmt: skip
"""Parts of paths that are not used at all: the source of a document kept for validation, indexes, a second copy."""

_TRANSLATED = ("debian-handbook", "debian-history", "installation-guide-amd64")
_OURS = ("/en/", "/fr/", "/de/", "/en-us/", "/fr-fr/", "/de-de/", ".en.pdf", ".fr.pdf", ".de.pdf")


def is_skipped(package: str, path: str) -> bool:
    """Whether a file is not used at all, be it for its content or its language."""
    is_foreign = package in _TRANSLATED and not any(mark in path.lower() for mark in _OURS)
    return is_foreign or any(part in path for part in SKIPPED_FILES)


def is_held_out(package: str, path: str) -> bool:
    """Whether a file may only be evaluated on."""
    return package in HELD_OUT or any(part in path for part in HELD_OUT_FILES)


def language_of(package: str, path: str) -> str:
    """``en``, ``fr`` or ``de``, guessed from the names; only used to balance the data."""
    for language, long in (("fr", "french"), ("de", "german")):
        marks = (f"-{language}", f"/{language}/", f"-{language}.", f".{language}.", f"/{language}-{language}/")
        if package.endswith((f"-{language}", long)) or any(mark in path.lower() for mark in marks):
            return language
    return "en"
