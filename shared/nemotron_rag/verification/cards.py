"""The examples of NVIDIA's model cards: inputs, and the scores that the cards print.

From the cards of the repositories in the catalog. Cards of which an input or a score is not known are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CARDS", "IMAGE_HOSTS", "Example"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One example of a card.

    Args:
        name: what the passages are.
        queries: the queries.
        texts: of the passages; empty strings for images without text.
        images: URLs of the passages' images; empty strings for texts without image.
        scores: as printed, a row for each query: logits, cosines or MaxSim, by the model's kind.
        note: a known reason for differences; empty for none.
    """

    name: str
    queries: tuple[str, ...]
    texts: tuple[str, ...]
    images: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]
    note: str = ""


IMAGE_HOSTS = ("developer.download.nvidia.com", "blogs.nvidia.com", "developer-blogs.nvidia.com")
"""Hosts of the cards' images."""

_NONE = ("", "", "")
_ROBOTS = "How is AI improving the intelligence and capabilities of robots?"
_TEXTS = (
    "AI enables robots to perceive, plan, and act autonomously.",
    "AI is transforming autonomous vehicles by enabling safer, smarter, and more reliable decision-making on the road.",
    "A biological foundation model designed to analyze and generate DNA, RNA, and protein sequences.",
)
_ISAAC = "https://developer.download.nvidia.com/images/isaac/nvidia-isaac-lab-1920x1080.jpg"
_IMAGES = (
    _ISAAC,
    "https://blogs.nvidia.com/wp-content/uploads/2018/01/automotive-key-visual-corp-blog-level4-av-og-1280x680-1.png",
    "https://developer-blogs.nvidia.com/wp-content/uploads/2025/02/hc-press-evo2-nim-25-featured-b.jpg",
)
_COLEMBED_QUERIES = (
    _ROBOTS,
    "Canary, a multilingual model that transcribes speech in English, Spanish, German, and French with punctuation and "
    "capitalization.",
    "Generative AI can generate DNA sequences that can be translated into proteins for bioengineering.",
)
_COLEMBED_IMAGES = (
    _ISAAC,
    "https://developer-blogs.nvidia.com/wp-content/uploads/2024/03/asr-nemo-canary-featured.jpg",
    "https://blogs.nvidia.com/wp-content/uploads/2023/02/genome-sequencing-helix.jpg",
)
_PROTEIN = (
    "As a general guideline, the CDC's average requirement of protein for women ages 19 to 70 is 46 grams per day. "
    "But, as you can see from this chart, you'll need to increase that if you're expecting or training for a marathon. "
    "Check out the chart below to see how much protein you should be eating each day."
)
_SUMMIT = (
    "Definition of summit for English Language Learners. : 1  the highest point of a mountain : the top of a mountain. "
    ": 2  the highest level. : 3  a meeting or series of meetings between the leaders of two or more governments."
)
_CALORIES = (
    "Calorie intake should not fall below 1,200 a day in women or 1,500 a day in men, except under the supervision of "
    "a health professional."
)
_TILES = "the card does not say how many tiles its Sentence Transformers example had: try another --max-tiles"

CARDS: Mapping[str, tuple[Example, ...]] = {
    "llama-nemotron-embed-vl-1b-v2": (
        Example(name="text", queries=(_ROBOTS,), texts=_TEXTS, images=_NONE, scores=((0.4142, 0.4046, 0.0421),)),
    ),
    "llama-nemotron-rerank-vl-1b-v2": (
        Example(name="text", queries=(_ROBOTS,), texts=_TEXTS, images=_NONE, scores=((-0.73828125, -3.859375, -7.75),)),
        Example(
            name="image",
            queries=(_ROBOTS,),
            texts=_NONE,
            images=_IMAGES,
            scores=((-4.125, -5.15625, -5.96875),),
            note=_TILES,
        ),
        Example(
            name="image and text",
            queries=(_ROBOTS,),
            texts=_TEXTS,
            images=_IMAGES,
            scores=((-2.59375, -4.53125, -6.21875),),
            note=_TILES,
        ),
    ),
    "llama-nemotron-embed-1b-v2": (
        Example(
            name="text",
            queries=("how much protein should a female eat", "summit define"),
            texts=(_PROTEIN, _SUMMIT),
            images=("", ""),
            scores=((0.5968121290206909, -0.04534469544887543), (-0.03361201286315918, 0.46140915155410767)),
        ),
    ),
    "llama-nemotron-rerank-1b-v2": (
        Example(
            name="text",
            queries=("how much protein should a female eat?",),
            texts=(_PROTEIN, _SUMMIT, _CALORIES),
            images=_NONE,
            scores=((20.625, -23.125, -0.2617),),
        ),
    ),
    "llama-nemotron-colembed-vl-3b-v2": (
        Example(
            name="image",
            queries=_COLEMBED_QUERIES,
            texts=_NONE,
            images=_COLEMBED_IMAGES,
            scores=((10.9662, 10.6623, 10.0281), (17.7323, 18.6031, 17.7613), (13.2915, 13.6993, 13.7968)),
        ),
    ),
    "nemotron-colembed-vl-8b-v2": (
        Example(
            name="image",
            queries=_COLEMBED_QUERIES,
            texts=_NONE,
            images=_COLEMBED_IMAGES,
            scores=((21.1969, 20.9079, 20.5363), (32.2324, 32.8058, 32.2075), (25.7505, 25.8201, 26.2726)),
        ),
    ),
}
"""By catalog id."""
