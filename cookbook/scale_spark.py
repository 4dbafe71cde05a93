"""Index documents on Spark: `PageIndex.add` lists and settles them, executors render, embed and write.

    spark-submit cookbook/scale_spark.py /mnt/documents parquet:///mnt/stage --embedder llama-nemotron-embed-vl-1b-v2
    nemotron-rag load parquet:///mnt/stage --to http://qdrant:6333 --images s3://bucket/images

In the place of the stage, a Qdrant server and --images may stand. Every executor needs nemotron-rag, and must reach the
documents under the same paths or URLs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from pyspark.sql import SparkSession

from nemotron_rag import PageIndex
from nemotron_rag.batch.frames import PAGE_COLUMNS, SPAN_COLUMNS, map_in_pandas
from nemotron_rag.batch.job import Job
from nemotron_rag.batch.rows import Row


def on_spark(job: Job) -> Iterator[list[Row]]:
    """An engine for `PageIndex.add`."""
    spark = SparkSession.builder.getOrCreate()
    # One partition a span: an executor takes the next one when it is done.
    spans = spark.createDataFrame(job.spans, SPAN_COLUMNS).repartition(max(1, len(job.spans)))
    done = spans.mapInPandas(map_in_pandas(job.render), PAGE_COLUMNS).mapInPandas(
        map_in_pandas(job.settle()), PAGE_COLUMNS
    )
    for row in done.toLocalIterator():
        yield [row.asDict()]
    if job.pages:  # single pages that were given to `add`
        yield job.settle()()(job.pages)


def main(arguments: list[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents")
    parser.add_argument("to")
    parser.add_argument("--embedder", required=True)
    parser.add_argument("--images")
    given = parser.parse_args(arguments)
    with PageIndex(given.to, embedder=given.embedder, images=given.images or True) as index:
        print(index.add(given.documents, engine=on_spark))


if __name__ == "__main__":
    main()
