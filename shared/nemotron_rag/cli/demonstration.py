"""The demo: index the PDFs of ``cookbook/pdfs``, run five queries, rerank, and write an HTML report that shows where.

The queries were written for these documents before any model had read them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nemotron_rag.documents.pdf import PdfEngine
from nemotron_rag.errors import InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.index.request import Mode
from nemotron_rag.late_interaction.heatmap import compute_heatmap
from nemotron_rag.models.load import load_embedder, load_multivector_embedder, load_reranker
from nemotron_rag.protocols import Reranker
from nemotron_rag.report import Answer, write_report
from nemotron_rag.types import AddReport, Hit

__all__ = ["QUERIES", "DemoAnswer", "DemoResult", "Query", "find_pdfs", "run_demo"]

EMBEDDER = "starter-embed-vl"
RERANKER = "starter-rerank-vl"
HEATMAPS = "starter-colembed"
NOTE = (
    "Found by starter-embed-vl and by words, ranked by starter-rerank-vl, heatmaps by starter-colembed: tiny models of "
    "this project to try the whole way offline. They are not NVIDIA's models, and say nothing about how good those are."
)
_MODE: Mode = "hybrid"
_FUSE = True  # the starter reranker is too small to be trusted alone
_CANDIDATES = 10
_SHOWN = 3
_MARKER = ".nemotron-rag-demo"  # only a folder with this file is ever overwritten


@dataclass(frozen=True, slots=True)
class Query:
    """A query whose answer is known.

    Args:
        text: as a visitor would type it.
        file: name of the PDF that answers it.
        pages: pages of that PDF that answer it, starting at 1.
        kind: where the answer is: text, table or figure.
    """

    text: str
    file: str
    pages: tuple[int, ...]
    kind: str

    def answered_by(self, hit: Hit) -> bool:
        """Whether the hit is one of the pages known to answer the query."""
        return Path(hit.page.source).name == self.file and hit.page.number in self.pages


QUERIES = (
    Query("How is a compute node sanitized between two jobs?", "nist-sp800-223-hpc.pdf", (23,), "text"),
    Query("How do diskless nodes boot over the network?", "nist-sp800-223-hpc.pdf", (32,), "text"),
    Query(
        "Disability rate of Hispanic or Latino people in 2005 and 2010", "census-disability-us001.pdf", (3,), "table"
    ),
    Query("Chart of disability and need for assistance by age group", "census-disability-us001.pdf", (2,), "figure"),
    Query("Wie wird die Viruslast auf den Durchfluss der Kläranlage normalisiert?", "rki-amelag-de.pdf", (4,), "text"),
)


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """One query, its hits after reranking and before, and the seconds of search and reranking together."""

    query: Query
    hits: Sequence[Hit]
    before: Sequence[Hit]
    seconds: float

    @property
    def rank(self) -> int | None:
        """Rank of the first correct page among the hits, starting at 1; None if there is none."""
        return next((hit.rank for hit in self.hits if self.query.answered_by(hit)), None)

    @property
    def note(self) -> str:
        """One line: the time, the page of the answer, and whether it was found."""
        pages = ", ".join(map(str, self.query.pages))
        place = f"found at rank {self.rank}" if self.rank else f"not among the first {len(self.hits)}"
        return f"{self.seconds:.2f} s; answer in {self.query.file}, page {pages} ({self.query.kind}): {place}"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Results of the demo.

    Args:
        load_seconds: time to load both models.
        added: report of indexing.
        answers: one for each query.
        index: folder of the index, ready for more queries.
        report: the HTML page.
    """

    load_seconds: float
    added: AddReport
    answers: Sequence[DemoAnswer]
    index: Path
    report: Path


def find_pdfs() -> Path:
    """Find the repository's ``cookbook/pdfs``: in the current folder, or in the clone that this module is in.

    Raises:
        InputError: neither exists; the package was installed without its repository.
    """
    for root in (Path.cwd(), Path(__file__).parents[3]):
        folder = root / "cookbook" / "pdfs"
        if folder.is_dir():
            return folder
    raise InputError(
        "the demo's PDFs are in the repository's cookbook/pdfs; run it from a clone, or give --pdfs FOLDER"
    )


def run_demo(
    pdfs: Path,
    *,
    out: Path,
    progress: bool = True,
    pdf_engine: PdfEngine | None = None,
    step: Callable[[str], object] = lambda text: None,
) -> DemoResult:
    """Index the PDFs, run the queries, write the report.

    Args:
        pdfs: folder with the demo's PDFs; queries about missing files are left out.
        out: folder to write to; created if missing. The index of an earlier demo in it is replaced.
        progress: show a progress bar on stderr.
        pdf_engine: what renders the PDFs; None for MuPDF, or pdfium where that is not installed.
        step: is told what is done next.

    Raises:
        InputError: the folder has none of the demo's PDFs, or `out` cannot be used.
    """
    queries = [query for query in QUERIES if (pdfs / query.file).is_file()]
    if not queries:
        files = ", ".join(sorted({query.file for query in QUERIES}))
        raise InputError(f"{pdfs} has none of the demo's PDFs ({files}); give the folder that has them")
    location = _fresh_index(out)
    step("Loading three starter models")
    start = time.perf_counter()
    embedder, reranker = load_embedder(EMBEDDER), load_reranker(RERANKER)
    heatmap = partial(compute_heatmap, load_multivector_embedder(HEATMAPS))
    load_seconds = time.perf_counter() - start
    with PageIndex(location, embedder=embedder, pdf_engine=pdf_engine) as index:
        step("Indexing PDFs: every page is rendered, and its image and text embedded")
        added = index.add(pdfs, progress=progress)
        step(f"Searching and reranking: {len(queries)} queries")
        answers = [_search(index, query, reranker) for query in queries]
        step("Writing the report: frames where a page answers, heatmaps where it matches")
        sections = [
            Answer(each.query.text, each.hits, each.note, heatmap, index.regions, each.before, _FUSE)
            for each in answers
        ]
        report = write_report(out / "report.html", sections, title="nemotron-rag demo", note=NOTE)
    return DemoResult(load_seconds, added, answers, location, report)


def _search(index: PageIndex, query: Query, reranker: Reranker) -> DemoAnswer:
    start = time.perf_counter()
    hits = index.search(query.text, k=_SHOWN, candidates=_CANDIDATES, rerank=reranker, mode=_MODE, fuse=_FUSE)
    seconds = time.perf_counter() - start
    before = index.search(query.text, k=_CANDIDATES, rerank=False, mode=_MODE)
    return DemoAnswer(query, hits, before, seconds)


def _fresh_index(out: Path) -> Path:
    """Return an empty folder for the index in `out`, replacing that of an earlier demo only."""
    location = out / "index"
    try:
        if out.exists() and not (out / _MARKER).is_file() and any(out.iterdir()):
            raise InputError(f"{out} has files that are not the demo's; give an empty or new folder with --out")
        if location.exists():
            shutil.rmtree(location)
        out.mkdir(parents=True, exist_ok=True)
        (out / _MARKER).write_text("Each demo replaces what is in this folder.\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the demo's files to {out}: {error.strerror}; give another folder") from error
    return location
