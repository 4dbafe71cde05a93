"""The demonstration: real PDFs indexed, five questions asked, the pages reranked and shown. It prints nothing.

The questions were written for the documents in the repository's ``cookbook/pdfs``, before any model had read them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemotron_rag.errors import InputError
from nemotron_rag.html_report import Answer, write_report
from nemotron_rag.index import PageIndex
from nemotron_rag.load import load_embedder, load_reranker
from nemotron_rag.protocols import Reranker
from nemotron_rag.types import AddReport, Hit

__all__ = ["QUESTIONS", "DemoAnswer", "DemoResult", "Question", "find_pdfs", "run_demo"]

EMBEDDER = "starter-embed-vl"
RERANKER = "starter-rerank-vl"
NOTE = (
    "Found by starter-embed-vl and ranked by starter-rerank-vl: tiny models of this project, shipped with it to "
    "try the whole way offline. They are not NVIDIA's models, and say nothing about how good those are."
)
_CANDIDATES = 10
_SHOWN = 3
_MARKER = ".nemotron-rag-demo"  # only in a folder with this file is anything ever replaced


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose answer is known.

    Args:
        text: as a visitor would type it.
        file: name of the PDF that answers it.
        pages: pages of that PDF that answer it, starting at 1.
        kind: what the answer is found in: text, table or figure.
    """

    text: str
    file: str
    pages: tuple[int, ...]
    kind: str

    def answered_by(self, hit: Hit) -> bool:
        """Whether the hit is one of the pages known to answer the question."""
        return Path(hit.page.source).name == self.file and hit.page.number in self.pages


QUESTIONS = (
    Question("How is a compute node sanitized between two jobs?", "nist-sp800-223-hpc.pdf", (23,), "text"),
    Question("How do diskless nodes boot over the network?", "nist-sp800-223-hpc.pdf", (32,), "text"),
    Question(
        "Disability rate of Hispanic or Latino people in 2005 and 2010", "census-disability-us001.pdf", (3,), "table"
    ),
    Question("Chart of disability and need for assistance by age group", "census-disability-us001.pdf", (2,), "figure"),
    Question(
        "Wie wird die Viruslast auf den Durchfluss der Kläranlage normalisiert?", "rki-amelag-de.pdf", (4,), "text"
    ),
)


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """One question, the hits after reranking, and the seconds that search and reranking took together."""

    question: Question
    hits: Sequence[Hit]
    seconds: float

    @property
    def rank(self) -> int | None:
        """Where the first right page stands among the hits, starting at 1; None if it is not there."""
        return next((hit.rank for hit in self.hits if self.question.answered_by(hit)), None)

    @property
    def note(self) -> str:
        """One line: the time, where the answer stands, and whether it was found."""
        pages = ", ".join(map(str, self.question.pages))
        place = f"found at rank {self.rank}" if self.rank else f"not among the first {len(self.hits)}"
        return f"{self.seconds:.2f} s; answer in {self.question.file}, page {pages} ({self.question.kind}): {place}"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration did.

    Args:
        load_seconds: time to load both models.
        added: what was indexed, and how long that took.
        answers: one for each question.
        index: folder of the index, ready for more questions.
        report: the HTML page.
    """

    load_seconds: float
    added: AddReport
    answers: Sequence[DemoAnswer]
    index: Path
    report: Path


def find_pdfs() -> Path:
    """The repository's ``cookbook/pdfs``: below the current folder, or beside the source this runs from.

    Raises:
        InputError: neither is there; the package was installed without its repository.
    """
    for root in (Path.cwd(), Path(__file__).parents[2]):
        folder = root / "cookbook" / "pdfs"
        if folder.is_dir():
            return folder
    raise InputError(
        "the demo's PDFs are in the repository's cookbook/pdfs; run it from a clone, or give --pdfs FOLDER"
    )


def run_demo(pdfs: Path, *, out: Path, progress: bool = True) -> DemoResult:
    """Index the PDFs, ask the questions, write the report.

    Args:
        pdfs: folder with the demo's PDFs; questions about files that are not there are left out.
        out: folder to write to; made if missing. The index of an earlier demo in it is replaced.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the folder holds none of the demo's PDFs, or `out` cannot be used.
    """
    questions = [question for question in QUESTIONS if (pdfs / question.file).is_file()]
    if not questions:
        wanted = ", ".join(sorted({question.file for question in QUESTIONS}))
        raise InputError(f"the demo asks about {wanted}; {pdfs} holds none of them; give the folder that does")
    location = _fresh_index(out)
    start = time.perf_counter()
    embedder, reranker = load_embedder(EMBEDDER), load_reranker(RERANKER)
    load_seconds = time.perf_counter() - start
    with PageIndex(location, embedder=embedder) as index:
        added = index.add(pdfs, progress=progress)
        answers = [_ask(index, question, reranker) for question in questions]
    sections = [Answer(answer.question.text, answer.hits, answer.note) for answer in answers]
    report = write_report(out / "report.html", sections, title="nemotron-rag demo", note=NOTE)
    return DemoResult(load_seconds, added, answers, location, report)


def _ask(index: PageIndex, question: Question, reranker: Reranker) -> DemoAnswer:
    start = time.perf_counter()
    hits = index.search(question.text, k=_CANDIDATES, rerank=reranker, top_n=_SHOWN)
    return DemoAnswer(question, hits, time.perf_counter() - start)


def _fresh_index(out: Path) -> Path:
    """An empty place for the index in `out`; only what an earlier demo left there is replaced."""
    location = out / "index"
    try:
        if out.exists() and not (out / _MARKER).is_file() and any(out.iterdir()):
            raise InputError(f"{out} holds files that are not the demo's; give an empty or new folder with --out")
        if location.exists():
            shutil.rmtree(location)
        out.mkdir(parents=True, exist_ok=True)
        (out / _MARKER).write_text("Every demo replaces what stands beside this file.\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the demo's files to {out}: {error.strerror}; give another folder") from error
    return location
