"""Print the results of the demo."""

from __future__ import annotations

from nemotron_rag.cli import _output as output
from nemotron_rag.cli.demonstration import NOTE, DemoResult

__all__ = ["show_demo"]


def show_demo(result: DemoResult) -> None:
    """Print what was indexed, the ranked pages of every query, and what to type next."""
    output.say(NOTE)
    output.say(f"models loaded in {result.load_seconds:.1f} s")
    output.say_lines(output.added_lines(result.added))
    for answer in result.answers:
        output.say()
        output.say(answer.query.text, style="bold")
        output.say(answer.note)
        output.show(output.hits_table(answer.hits, answer.query.text))
    found = sum(answer.rank == 1 for answer in result.answers)
    output.say(f"the right page came first for {found} of {len(result.answers)} queries", style="bold")
    output.say(f"images: open {result.report} in a browser")
    output.say()
    output.say("Ask it something else:")
    output.say(f'  nemotron-rag search {result.index} "your query" --rerank --html hits.html')
    output.say("Index your own PDFs with NVIDIA's models (a GPU is advised; the first use downloads 3.4 GB each):")
    output.say("  nemotron-rag index your-folder --to your-index")
    output.say('  nemotron-rag search your-index "your query" --rerank')
