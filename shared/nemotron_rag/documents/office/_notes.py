"""Speaker notes of presentations, read from their XML: PowerPoint's (.pptx) and OpenDocument's (.odp, .fodp)."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from nemotron_rag.documents.kinds import Kind
from nemotron_rag.documents.office._package import read_part, walk

__all__ = ["speaker_notes"]

_PART = 64 * 2**20  # bytes of one part of XML
_DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main "
_SLIDES = "http://schemas.openxmlformats.org/presentationml/2006/main "
_RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships "
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships "
_STRICT = (
    ("http://purl.oclc.org/ooxml/drawingml/main ", _DRAWING),
    ("http://purl.oclc.org/ooxml/presentationml/main ", _SLIDES),
    ("http://purl.oclc.org/ooxml/officeDocument/relationships ", _RELATION),
)
_ODF_TEXT = "urn:oasis:names:tc:opendocument:xmlns:text:1.0 "
_ODF_DRAW = "urn:oasis:names:tc:opendocument:xmlns:drawing:1.0 "
_ODF_SLIDES = "urn:oasis:names:tc:opendocument:xmlns:presentation:1.0 "


def speaker_notes(path: Path, kind: Kind) -> dict[int, str]:
    """Return the notes of slides that have some, by the number of the slide, from 1; of other files none.

    Raises:
        DocumentError: the file is broken where its notes are.
    """
    if kind == "fodp":
        return _of_odf(path.read_bytes())
    if kind not in ("pptx", "odp"):
        return {}
    with zipfile.ZipFile(path) as archive:
        if kind == "odp":
            return _of_odf(read_part(archive, "content.xml", max_bytes=_PART))
        return _of_pptx(archive)


def _of_odf(content: bytes) -> dict[int, str]:
    reader = _OdfNotes()
    walk(content, reader)
    return reader.notes


def _of_pptx(archive: zipfile.ZipFile) -> dict[int, str]:
    main = _targets(archive, "", "_rels/.rels", "/officeDocument")
    presentation = next(iter(main.values()), "ppt/presentation.xml")
    order = _SlideOrder()
    walk(read_part(archive, presentation, max_bytes=_PART), order)
    slides = _targets(archive, presentation, _relations_of(presentation), "/slide")
    notes: dict[int, str] = {}
    for number, identity in enumerate(order.ids, start=1):
        slide = slides.get(identity, "")
        for part in _targets(archive, slide, _relations_of(slide), "/notesSlide").values() if slide else ():
            reader = _NotesPage()
            walk(read_part(archive, part, max_bytes=_PART), reader)
            if reader.text_of_notes:
                notes[number] = reader.text_of_notes
    return notes


def _relations_of(part: str) -> str:
    folder, name = posixpath.split(part)
    return posixpath.join(folder, "_rels", f"{name}.rels")


def _targets(archive: zipfile.ZipFile, part: str, relations: str, kind: str) -> Mapping[str, str]:
    """Parts of a package that another one refers to, by the id of the reference."""
    data = read_part(archive, relations, max_bytes=_PART)
    if not data:
        return {}
    reader = _Relations()
    walk(data, reader)
    folder = posixpath.dirname(part)
    return {
        found.id: posixpath.normpath(posixpath.join("/", folder, found.target)).lstrip("/")
        for found in reader.found
        if found.type.endswith(kind)
    }


def _transitional(name: str) -> str:
    for strict, usual in _STRICT:
        if name.startswith(strict):
            return usual + name.removeprefix(strict)
    return name


class _Relation(NamedTuple):
    id: str
    type: str
    target: str


class _Relations:
    def __init__(self) -> None:
        self.found: list[_Relation] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == f"{_PACKAGE}Relationship" and attributes.get("TargetMode") != "External":
            self.found.append(_Relation(*(attributes.get(key, "") for key in ("Id", "Type", "Target"))))

    def end(self, name: str) -> None:
        pass

    def text(self, data: str) -> None:
        pass


class _SlideOrder:
    """The ids of the slides in ``presentation.xml``, in their order."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if _transitional(name) == f"{_SLIDES}sldId":
            self.ids += [value for key, value in attributes.items() if _transitional(key) == f"{_RELATION}id"]

    def end(self, name: str) -> None:
        pass

    def text(self, data: str) -> None:
        pass


class _NotesPage:
    """The text in the body of a notes page; the picture of the slide, page number and date beside it are left out."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._in_body = False
        self._in_text = False

    @property
    def text_of_notes(self) -> str:
        return "".join(self._parts).strip()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = _transitional(name)
        if name == f"{_SLIDES}sp":
            self._in_body = False
        elif name == f"{_SLIDES}ph":
            self._in_body = attributes.get("type", "obj") == "body"
        elif name == f"{_DRAWING}br" and self._in_body:
            self._parts.append("\n")
        self._in_text = name == f"{_DRAWING}t"

    def end(self, name: str) -> None:
        if _transitional(name) == f"{_DRAWING}p" and self._in_body:
            self._parts.append("\n")
        self._in_text = False

    def text(self, data: str) -> None:
        if self._in_body and self._in_text:
            self._parts.append(data)


class _OdfNotes:
    def __init__(self) -> None:
        self.notes: dict[int, str] = {}
        self._slide = 0
        self._depth_of_notes = 0
        self._parts: list[str] = []
        self._in_paragraph = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == f"{_ODF_DRAW}page":
            self._slide += 1
        elif name == f"{_ODF_SLIDES}notes":
            self._depth_of_notes += 1
        elif name in (f"{_ODF_TEXT}p", f"{_ODF_TEXT}h"):
            self._in_paragraph += 1
        elif name in (f"{_ODF_TEXT}line-break", f"{_ODF_TEXT}tab", f"{_ODF_TEXT}s"):
            self.text("\n" if name.endswith("line-break") else " ")

    def end(self, name: str) -> None:
        if name in (f"{_ODF_TEXT}p", f"{_ODF_TEXT}h"):
            self._in_paragraph -= 1
            self._parts += ["\n"] if self._depth_of_notes else []
        elif name == f"{_ODF_SLIDES}notes":
            self._depth_of_notes -= 1
            text = "".join(self._parts).strip()
            self._parts = []
            if text and self._slide:
                self.notes[self._slide] = text

    def text(self, data: str) -> None:
        if self._depth_of_notes and self._in_paragraph:
            self._parts.append(data)
