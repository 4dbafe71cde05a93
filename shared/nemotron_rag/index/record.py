"""The record an index keeps of what wrote it, and the comparison with what opens it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemotron_rag.batch.embedding import EmbedderFacts
from nemotron_rag.documents.pdf import PdfEngine
from nemotron_rag.documents.words import ANALYSES, CURRENT_ANALYSIS
from nemotron_rag.errors import IndexMismatchError, InputError, StoreError
from nemotron_rag.late_interaction.token_vectors import TokenVectors
from nemotron_rag.models.catalog import CATALOG
from nemotron_rag.models.load import LoadOptions
from nemotron_rag.models.public_identity import public_identity
from nemotron_rag.protocols import AnyEmbedder
from nemotron_rag.types import ModelSpec

__all__ = ["IndexRecord", "compare"]

_FORMAT = 2
_FORMATS = (1, 2)  # the first had no `words`
_LENGTH = "max_length_"
_COMPARED = ("revision", "dimensions", "max_input_tiles", "use_thumbnail", "max_image_tokens")
_DIALECT, _OWN_DIALECT = "dialect", "nemotron-rag"
_OF_QUERIES = ("instruction",)  # what pages are embedded with does not depend on it


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRecord:
    """What decides whether new vectors fit those of an index.

    Args:
        name: of the embedder: catalog id or folder. Not compared, since folders move.
        identity: `Embedder.identity`.
        dpi: resolution at which PDF pages were rendered; None for scaling all to `max_pixels`.
        max_pixels: most pixels of a rendered page.
        token_vectors: `TokenVectors.to_json` of a resolved one; None for one vector a page.
        words: how the words of texts were found; see `nemotron_rag.documents.words`. The store reads it too.
        engine: of the store that wrote it, for people; None if it has no choice of them. Not compared.
        pdf_engine: what renders PDFs unless the caller says otherwise. Not compared: pages look the same to a model.
    """

    name: str
    identity: Mapping[str, str | int | bool | None]
    dpi: float | None
    max_pixels: int
    token_vectors: Mapping[str, Any] | None = None
    words: int = ANALYSES[0]
    engine: str | None = None
    pdf_engine: PdfEngine = "auto"

    @classmethod
    def of(
        cls,
        embedder: AnyEmbedder | EmbedderFacts,
        *,
        dpi: float | None,
        max_pixels: int,
        tokens: TokenVectors | None = None,
        engine: str | None = None,
        pdf_engine: PdfEngine = "auto",
    ) -> IndexRecord:
        """The record of a new index; a relative folder is noted as an absolute one, to be found from anywhere."""
        is_folder = _catalog_row(embedder.name) is None and Path(embedder.name).is_dir()
        name = str(Path(embedder.name).absolute()) if is_folder else embedder.name
        token_vectors = None if tokens is None else tokens.to_json()
        return cls(
            name=name,
            identity=dict(embedder.identity),
            dpi=dpi,
            max_pixels=max_pixels,
            token_vectors=token_vectors,
            words=CURRENT_ANALYSIS,
            engine=engine,
            pdf_engine=pdf_engine,
        )

    @classmethod
    def from_json(cls, record: Mapping[str, Any], *, where: str) -> IndexRecord:
        """Read a stored record.

        Raises:
            StoreError: a later version of this package wrote it, or it is damaged.
        """
        fields = dict(record)
        form = fields.pop("format", None)
        if form not in _FORMATS or fields.get("words", ANALYSES[0]) not in ANALYSES:
            raise StoreError(
                f"{where} has format {form}, this version reads format {_FORMAT} and before; update nemotron-rag"
            )
        try:
            found = cls(**fields)
            _ = found.tokens
        except (TypeError, InputError) as error:
            raise StoreError(f"{where} has a damaged record: {error}; delete the collection and add again") from error
        return found

    @property
    def tokens(self) -> TokenVectors | None:
        """How token vectors are stored; None for one vector a page."""
        return None if self.token_vectors is None else TokenVectors(**self.token_vectors)

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON."""
        return {"format": _FORMAT, **asdict(self)}

    def load_options(self, name: str) -> dict[str, Any]:
        """What the embedder of this record must be loaded with besides `name`."""
        shorter = () if self.token_vectors else ("dimensions",)  # token vectors have one length
        known = (*shorter, "max_input_tiles", "use_thumbnail", "max_image_tokens", *_OF_QUERIES)
        options: dict[str, Any] = {key: self.identity[key] for key in known if key in self.identity}
        lengths = {k.removeprefix(_LENGTH): v for k, v in self.identity.items() if k.startswith(_LENGTH)}
        if lengths:
            options["max_length"] = lengths
        spec = _catalog_row(name)
        if spec is not None and spec.repo is not None:
            options["revision"] = self.identity.get("revision")
        return options

    def check_settings(self, where: str, **given: float | None) -> None:
        """Compare how pages are rendered.

        Args:
            where: the index, for the message.
            **given: ``dpi`` or ``max_pixels``; None stands for "as the index has it".

        Raises:
            IndexMismatchError: a setting that was given is not the index's.
        """
        mine = {"dpi": self.dpi, "max_pixels": self.max_pixels}
        named = {key: value for key, value in given.items() if value is not None}
        compare(where, has={key: mine.get(key) for key in named}, given=named)

    def check_options(self, where: str, options: LoadOptions) -> None:
        """Compare the options of a named embedder, as far as they decide what it computes.

        Raises:
            IndexMismatchError: an option that was given is not the index's.
        """
        given: dict[str, Any] = {key: value for key, value in options.items() if key in _COMPARED and value is not None}
        length = options.get("max_length")
        if isinstance(length, Mapping):
            given |= {f"{_LENGTH}{key}": value for key, value in length.items()}
        elif length is not None:
            lengths = (key for key in self.identity if key.startswith(_LENGTH) and key != f"{_LENGTH}query")
            given |= dict.fromkeys(lengths, length)
        compare(where, has={key: self.identity.get(key) for key in given}, given=given)

    def check_tokens(self, where: str, given: TokenVectors | None) -> None:
        """Compare how token vectors are stored; what is None in `given` is as the index has it.

        Raises:
            IndexMismatchError: a setting that was given is not the index's.
            InputError: the index has one vector a page.
        """
        if given is None:
            return
        if self.token_vectors is None:
            raise InputError(f"{where} has one vector a page, so token_vectors= means nothing to it; leave it out")
        named = {key: value for key, value in given.to_json().items() if value is not None}
        compare(where, has={key: self.token_vectors.get(key) for key in named}, given=named)

    def check_name(self, where: str, name: str, *, revision: str | None = None) -> None:
        """Compare a catalog id with the one that wrote the index; folders are compared once they are loaded.

        Args:
            where: the index, for the message.
            name: as given.
            revision: as given; None for the catalog's.

        Raises:
            IndexMismatchError: both are in the catalog, and they are different models or revisions.
        """
        mine, theirs = _catalog_row(self.name), _catalog_row(name)
        if mine is None or theirs is None:
            return
        compare(where, has={"model": mine.id}, given={"model": theirs.id})
        wanted = revision or theirs.revision
        if wanted is not None:
            compare(where, has={"revision": self.identity.get("revision")}, given={"revision": wanted})

    @property
    def is_of_server(self) -> bool:
        """Whether a server computed the vectors."""
        return self.identity.get(_DIALECT) is not None

    def check_place(self, where: str) -> None:
        """Refuse a model in this process where a server of another kind than ours computed the vectors.

        Raises:
            IndexMismatchError: one did; its url is not kept.
        """
        dialect = self.identity.get(_DIALECT)
        if dialect not in (None, _OWN_DIALECT):
            raise IndexMismatchError(
                f"{where} was written with {self.name} at a server that speaks {dialect!r}; give base_url= of one"
            )

    def check_embedder(self, where: str, embedder: AnyEmbedder) -> None:
        """Compare everything that decides the vectors of pages.

        Raises:
            IndexMismatchError: the embedder does not compute what the index holds.
        """
        mine, theirs = _of_pages(self.identity), _of_pages(embedder.identity)
        if _OWN_DIALECT in (mine.get(_DIALECT), theirs.get(_DIALECT)):  # our server computes what the model here does
            mine, theirs = public_identity(mine), public_identity(theirs)  # it names none
            for key in (_DIALECT, "model"):
                if not (key in mine and key in theirs):
                    mine.pop(key, None), theirs.pop(key, None)
        compare(where, has=mine, given=theirs)


def compare(where: str, *, has: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise if two sets of settings differ.

    Raises:
        IndexMismatchError: naming each field that differs, what the index has and what was given.
    """
    names = [name for name in {**has, **given} if has.get(name) != given.get(name)]
    if names:
        theirs = ", ".join(f"{name}={has.get(name)!r}" for name in names)
        ours = ", ".join(f"{name}={given.get(name)!r}" for name in names)
        raise IndexMismatchError(
            f"{where} was written with {theirs}, but {ours} was given; "
            "open it with the model and settings that wrote it, or use another collection"
        )


def _of_pages(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key not in _OF_QUERIES}


def _catalog_row(name: str) -> ModelSpec | None:
    return next((spec for spec in CATALOG if name in (spec.id, spec.repo)), None)
