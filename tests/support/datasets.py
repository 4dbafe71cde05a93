"""Small data sets in the published layouts, with the columns and file names that the publishers use."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw


def png(text: str, size=(120, 160)) -> bytes:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text((10, 10), text, fill="black")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, rows: list[dict], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def vidore_v3(folder: Path) -> Path:
    """The configs of ``vidore/vidore_v3_*``: pages from 0, lists of categories, every query in two languages."""
    pages = [("apples", 0), ("pears", 1), ("whales", 2), ("crabs", 3)]
    write_parquet(
        folder / "corpus" / "test-00000-of-00001.parquet",
        [
            {
                "corpus_id": i,
                "image": {"bytes": png(text), "path": f"{i}.png"},
                "doc_id": "book",
                "markdown": f"# {text}\n{text} of the book",
                "page_number_in_doc": number,
            }
            for i, (text, number) in enumerate(pages)
        ],
    )
    asked = [("apples", "english"), ("whales", "english"), ("pommes apples", "french"), ("baleines whales", "french")]
    write_parquet(
        folder / "queries" / "test-00000-of-00001.parquet",
        [
            {
                "query_id": i,
                "query": text,
                "language": language,
                "query_types": ["extractive", "numerical"] if i % 2 else ["open-ended"],
                "query_format": "question",
                "content_type": ["Text"],
                "raw_answers": ["x"],
                "query_generator": "human",
                "query_generation_pipeline": None,
                "source_type": "summary",
                "query_type_for_generation": None,
                "answer": "x",
            }
            for i, (text, language) in enumerate(asked)
        ],
    )
    box = {"annotator": 0, "x1": 1, "x2": 2, "y1": 1, "y2": 2}
    judged = [(0, 0, 2), (0, 1, 1), (1, 2, 2), (2, 0, 2), (3, 2, 1)]
    write_parquet(
        folder / "qrels" / "test-00000-of-00001.parquet",
        [
            {"query_id": q, "corpus_id": c, "score": s, "content_type": ["Text"], "bounding_boxes": [box]}
            for q, c, s in judged
        ],
    )
    write_parquet(
        folder / "documents_metadata" / "test-00000-of-00001.parquet",
        [{"file_name": "book.pdf", "doc_id": "book", "url": "", "page_number": 4, "license": "cc-by-4.0"}],
    )
    (folder / "pdfs").mkdir()
    (folder / "pdfs" / "metadata.csv").write_text("file_name\nbook.pdf\n", encoding="utf-8")
    return folder


def vidore_v2(folder: Path) -> Path:
    """The configs of ``vidore/*_v2``: names with hyphens, scores as floats."""
    write_parquet(
        folder / "corpus" / "test-00000-of-00001.parquet",
        [{"corpus-id": i, "image": {"bytes": png(text), "path": None}, "doc-id": "d"} for i, text in enumerate("abc")],
    )
    write_parquet(
        folder / "queries" / "test-00000-of-00001.parquet",
        [{"query-id": 0, "query": "Which letter?", "language": "english", "source_type": "human"}],
    )
    write_parquet(
        folder / "qrels" / "test-00000-of-00001.parquet",
        [{"query-id": 0, "corpus-id": 1, "answer": "b", "score": 1.0}, {"query-id": 0, "corpus-id": 2, "score": 2.0}],
    )
    write_parquet(folder / "docs" / "test-00000-of-00001.parquet", [{"doc-id": "d"}])
    return folder


def vidore_v1(folder: Path) -> Path:
    """``vidore/docvqa_test_subsampled`` and its like: one table, pages without a query, queries that repeat."""
    rows = [("apples?", "a.png"), (None, "b.png"), ("pears?", "b.png"), ("apples?", "c.png"), ("whales?", "a.png")]
    write_parquet(
        folder / "data" / "test-00000-of-00001.parquet",
        [
            {
                "questionId": str(i),
                "query": query,
                "question_types": None,
                "image": {"bytes": png(name), "path": None},
                "docId": i,
                "image_filename": f"images/{name}",
                "page": str(i),
                "answer": None,
                "data_split": "test",
                "source": "DocVQA",
            }
            for i, (query, name) in enumerate(rows)
        ],
    )
    return folder


def beir(folder: Path, *, splits=("test",)) -> Path:
    """BEIR's own files."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = [("d1", "Apples", "grow on trees"), ("d2", "Whales", "sing"), ("d3", "", "crabs walk sideways")]
    lines = [json.dumps({"_id": i, "title": title, "text": text, "metadata": {}}) for i, title, text in corpus]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    queries = [("q1", "what grows on trees"), ("q2", "who walks sideways"), ("q3", "of another split")]
    lines = [json.dumps({"_id": i, "text": text}) for i, text in queries]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "qrels").mkdir(exist_ok=True)
    for split in splits:
        rows = ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td2\t0", "q2\td3\t1"]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder
