"""Is it any good on these documents? Judged queries, runs over them, and what they found, measured."""

from __future__ import annotations

from nemotron_rag.evaluation.chat_queries import CHAT_WARNING, Ask, queries_from_chat
from nemotron_rag.evaluation.dataset import Dataset, JudgedQuery, file_page
from nemotron_rag.evaluation.notebook import show_metrics, show_ranks
from nemotron_rag.evaluation.output import Written, write_evaluation
from nemotron_rag.evaluation.query_files import read_query_file, write_query_file
from nemotron_rag.evaluation.results import Answered, Costs, Evaluation, Group, SystemResult, WantedPage
from nemotron_rag.evaluation.run import evaluate
from nemotron_rag.evaluation.sources import read_dataset
from nemotron_rag.evaluation.word_queries import WORDS_WARNING, WordKind, queries_from_words

__all__ = [
    "CHAT_WARNING",
    "WORDS_WARNING",
    "Answered",
    "Ask",
    "Costs",
    "Dataset",
    "Evaluation",
    "Group",
    "JudgedQuery",
    "SystemResult",
    "WantedPage",
    "WordKind",
    "Written",
    "evaluate",
    "file_page",
    "queries_from_chat",
    "queries_from_words",
    "read_dataset",
    "read_query_file",
    "show_metrics",
    "show_ranks",
    "write_evaluation",
    "write_query_file",
]
