"""Is it any good on these documents? Judged queries, runs over them, and what they found, measured."""

from __future__ import annotations

from nemotron_rag.evaluation.dataset import Dataset, JudgedQuery, file_page
from nemotron_rag.evaluation.output import Written, write_evaluation
from nemotron_rag.evaluation.query_files import read_query_file, write_query_file
from nemotron_rag.evaluation.results import Answered, Costs, Evaluation, Group, SystemResult, WantedPage
from nemotron_rag.evaluation.run import evaluate
from nemotron_rag.evaluation.sources import read_dataset

__all__ = [
    "Answered",
    "Costs",
    "Dataset",
    "Evaluation",
    "Group",
    "JudgedQuery",
    "SystemResult",
    "WantedPage",
    "Written",
    "evaluate",
    "file_page",
    "read_dataset",
    "read_query_file",
    "write_evaluation",
    "write_query_file",
]
