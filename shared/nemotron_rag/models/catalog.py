"""Every supported checkpoint, one frozen row each. Pure data: it loads nothing and imports no model.

Sources: the model cards and configuration files of the named repositories at the pinned revisions.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from nemotron_rag.errors import UnknownModelError
from nemotron_rag.types import Kind, Modality, ModelSpec

__all__ = ["CATALOG", "OLDER_NAMES", "SUCCESSORS", "find"]

_VL: tuple[Modality, ...] = ("text", "image", "image_text")
# The card's settings for llama-nemotron-embed-vl-1b-v2 and llama-nemotron-rerank-vl-1b-v2.
_VL_LENGTHS: dict[Modality, int] = {"image": 2048, "text": 8192, "image_text": 10240}
# The text models' cards: up to 8192 tokens.
_TEXT_LENGTHS: dict[Modality, int] = {"text": 8192}
# Of the published processor of ColEmbed V2 4B and 8B; an image's tokens count twice there.
_QWEN_COLEMBED_LENGTHS: dict[Modality, int] = {"image": 4096, "text": 4096, "image_text": 4096}
_TOKENS_PER_TILE = 256
# Mean over the pages of ViDoRe V3, from the paper of Nemotron ColEmbed V2 (arXiv 2602.03992).
_QWEN_PAGE_VECTORS = 773
_MATRYOSHKA = (384, 512, 768, 1024, 2048)
# The cards of Nemotron 3 and 3.5: up to 32,768 tokens.
_NEMOTRON3_LENGTHS: dict[Modality, int] = {"text": 32_768, "image": 32_768, "image_text": 32_768}
_NEMOTRON35_LICENCE = "terms of NVIDIA whose name is not confirmed; the card allows commercial use"
_UNREAD = (
    "not confirmed by a released checkpoint, and read from its files: start token, image size, prompts, rotary "
    "numbers, activation of the tower, weight names"
)
_STARTER = "ours, tiny, for trying things out; not a model of NVIDIA's"
_NVIDIA_LICENCE = "NVIDIA Open Model License + Llama 3.2 Community License"

# Revisions and sizes of the embedders are those that the benchmark mteb pins. The rerankers have the same networks, 8B
# also an output layer.
_QWEN_SEARCH = "Retrieve images or text relevant to the user's query."  # in the authors' example of a search
_QWEN_UNREAD = "Not confirmed, for want of the published files: that its tokenizer adds no token of its own"
_QWEN_EMBED_NOTE = f"reads images as queries too. {_QWEN_UNREAD}; for which sizes besides the full one it was trained"
_QWEN_RERANK_NOTE = f"no revision on the model hub is confirmed; reads images as queries too. {_QWEN_UNREAD}"

CATALOG: tuple[ModelSpec, ...] = (
    ModelSpec(
        id="llama-nemotron-embed-vl-1b-v2",
        repo="nvidia/llama-nemotron-embed-vl-1b-v2",
        revision="582e3bf72aee355e3c59ed89de53543c5b0657ee",
        kind="embedder",
        family="llama_nemotron_embed_vl",
        licence=_NVIDIA_LICENCE,
        commercial=True,
        parameters=1_678_252_480,
        dimensions=(2048,),
        modalities=_VL,
        max_input_tiles=6,
        max_length=_VL_LENGTHS,
        verified=True,
    ),
    ModelSpec(
        id="llama-nemotron-rerank-vl-1b-v2",
        repo="nvidia/llama-nemotron-rerank-vl-1b-v2",
        revision="9c20c4aedf9ec87b6b7346c3bc4754ea030dab35",
        kind="reranker",
        family="llama_nemotron_rerank_vl",
        licence=_NVIDIA_LICENCE,
        commercial=True,
        parameters=1_678_254_528,
        dimensions=(),
        modalities=_VL,
        max_input_tiles=6,
        max_length=_VL_LENGTHS,
        verified=True,
    ),
    ModelSpec(
        id="llama-3.2-nemoretriever-1b-vlm-embed-v1",
        repo=None,
        revision=None,
        kind="embedder",
        family="llama_nemotron_embed_vl",
        licence="Llama 3.2 Community License + terms of NVIDIA that were not confirmed",
        commercial=False,
        parameters=None,
        dimensions=(2048,),
        modalities=_VL,
        max_input_tiles=None,
        max_length={},
        verified=False,
        note="predecessor of llama-nemotron-embed-vl-1b-v2; known from NVIDIA's services only. Not confirmed: that its "
        "architecture is the same, its licence for weights, size, tiles and lengths",
    ),
    ModelSpec(
        id="llama-nemotron-embed-1b-v2",
        repo="nvidia/llama-nemotron-embed-1b-v2",
        revision="113abe4acafa848e77ead9c0623205e511932348",
        kind="embedder",
        family="llama_nemotron_text_embed",
        licence=_NVIDIA_LICENCE,
        commercial=True,
        parameters=1_235_814_400,
        dimensions=_MATRYOSHKA,
        modalities=("text",),
        max_input_tiles=None,
        max_length=_TEXT_LENGTHS,
        verified=True,
    ),
    ModelSpec(
        id="llama-3.2-nv-embedqa-1b-v2",
        repo="nvidia/llama-3.2-nv-embedqa-1b-v2",
        revision="cefc2394cc541737b7867df197984cf23f05367f",
        kind="embedder",
        family="llama_nemotron_text_embed",
        licence=_NVIDIA_LICENCE,
        commercial=True,
        parameters=1_235_814_400,
        dimensions=_MATRYOSHKA,
        modalities=("text",),
        max_input_tiles=None,
        max_length=_TEXT_LENGTHS,
        verified=True,
        note="the earlier name of llama-nemotron-embed-1b-v2",
    ),
    ModelSpec(
        id="llama-nemotron-rerank-1b-v2",
        repo="nvidia/llama-nemotron-rerank-1b-v2",
        revision="8fd3e5d962d44cfe65d4ba0784eebed44cf136b0",
        kind="reranker",
        family="llama_nemotron_text_rerank",
        licence=_NVIDIA_LICENCE,
        commercial=True,
        parameters=1_235_816_448,
        dimensions=(),
        modalities=("text",),
        max_input_tiles=None,
        max_length=_TEXT_LENGTHS,
        verified=True,
        note="llama-3.2-nv-rerankqa-1b-v2 is its earlier name, and loads it too",
    ),
    ModelSpec(
        id="nemotron-3.5-embed-1b",
        repo="nvidia/Nemotron-3.5-Embed-1B-BF16",
        revision="e24ca1e346bcc53572bd7bdc02b3e8ebf66c197c",
        kind="embedder",
        family="nemotron35_embed",
        licence=_NEMOTRON35_LICENCE,
        commercial=True,
        parameters=1_554_710_528,
        dimensions=(512, 1024, 2048),
        modalities=_VL,
        max_input_tiles=None,
        max_length=_NEMOTRON3_LENGTHS,
        verified=True,
        note=f"{_UNREAD}, smallest length of a vector",
    ),
    ModelSpec(
        id="nemotron-3.5-embed-8b",
        repo="nvidia/Nemotron-3.5-Embed-8B-BF16",
        revision="781e779ee4ca9c2d2a4f38321993556baeab49a1",
        kind="embedder",
        family="nemotron35_embed",
        licence=_NEMOTRON35_LICENCE,
        commercial=True,
        parameters=8_381_155_328,
        dimensions=(512, 1024, 2048, 4096),
        modalities=_VL,
        max_input_tiles=None,
        max_length=_NEMOTRON3_LENGTHS,
        verified=True,
        note=f"{_UNREAD}, smallest length of a vector",
    ),
    ModelSpec(
        id="nemotron-3.5-rerank-8b",
        repo="nvidia/Nemotron-3.5-Rerank-8B-BF16",
        revision="708e844c3da0bbaa923e9dc310b07da4ffb6a6b5",
        kind="reranker",
        family="nemotron35_rerank",
        licence=_NEMOTRON35_LICENCE,
        commercial=True,
        parameters=8_381_159_424,
        dimensions=(),
        modalities=_VL,
        max_input_tiles=None,
        max_length=_NEMOTRON3_LENGTHS,
        verified=True,
        note=f"{_UNREAD}, temperature of the score",
    ),
    ModelSpec(
        id="nemotron-3-embed-1b",
        repo="nvidia/Nemotron-3-Embed-1B-BF16",
        revision="9e0b24858b1195815ecb1188ffa1b73bcea7b30a",
        kind="embedder",
        family="nemotron3_embed",
        licence="OpenMDW-1.1",
        commercial=True,
        parameters=1_140_918_272,
        dimensions=(2048,),
        modalities=("text",),
        max_input_tiles=None,
        max_length={"text": 32_768},
        verified=True,
        note="not confirmed by a released checkpoint, and read from its files: start token, prompts, rotary numbers",
    ),
    ModelSpec(
        id="nemotron-3-embed-8b",
        repo="nvidia/Nemotron-3-Embed-8B-BF16",
        revision="2b29550c4ab0646bb6bb47032dda54ea11f6dfe2",
        kind="embedder",
        family="nemotron3_embed",
        licence="OpenMDW-1.1",
        commercial=True,
        parameters=7_952_683_008,
        dimensions=(4096,),
        modalities=("text",),
        max_input_tiles=None,
        max_length={"text": 32_768},
        verified=True,
        note="not confirmed by a released checkpoint, and read from its files: start token, prompts, rotary numbers",
    ),
    ModelSpec(
        id="llama-nemotron-colembed-vl-3b-v2",
        repo="nvidia/llama-nemotron-colembed-vl-3b-v2",
        revision="680b47b199f99bc0ec2f4e90ffa583ec0c2e452c",
        kind="multivector_embedder",
        family="llama_nemotron_colembed_vl",
        licence="NVIDIA Non-Commercial License",
        commercial=False,
        parameters=4_407_000_000,
        dimensions=(3072,),
        modalities=_VL,
        max_input_tiles=8,
        max_length={"image": 2560, "text": 8192, "image_text": 10240},
        verified=True,
        page_vectors=(8 + 1) * _TOKENS_PER_TILE,  # the tiles and the thumbnail
        note="not confirmed: whether its own processor writes 'passage: ' once, as here, or twice; text \"passage: \" "
        "beside the image gives the second form",
    ),
    ModelSpec(
        id="nemotron-colembed-vl-4b-v2",
        repo="nvidia/nemotron-colembed-vl-4b-v2",
        revision="0ed152d91f8ad4c5d48296b51c220f686641a398",
        kind="multivector_embedder",
        family="nemotron_colembed_qwen3_vl",
        licence="CC-BY-NC-4.0",
        commercial=False,
        parameters=4_826_771_968,
        dimensions=(2560,),
        modalities=_VL,
        max_input_tiles=None,
        max_length=_QWEN_COLEMBED_LENGTHS,
        verified=True,
        page_vectors=_QWEN_PAGE_VECTORS,
        note="made for page images; a text without one goes beyond the published processor",
    ),
    ModelSpec(
        id="nemotron-colembed-vl-8b-v2",
        repo="nvidia/nemotron-colembed-vl-8b-v2",
        revision="34b640612f311ed05a6c7c62c6564847ed555f5f",
        kind="multivector_embedder",
        family="nemotron_colembed_qwen3_vl",
        licence="CC-BY-NC-4.0",
        commercial=False,
        parameters=8_767_123_696,
        dimensions=(4096,),
        modalities=_VL,
        max_input_tiles=None,
        max_length=_QWEN_COLEMBED_LENGTHS,
        verified=True,
        page_vectors=_QWEN_PAGE_VECTORS,
        note="made for page images; a text without one goes beyond the published processor",
    ),
    ModelSpec(
        id="Qwen3-VL-Embedding-2B",
        repo="Qwen/Qwen3-VL-Embedding-2B",
        revision="9f2f7e710d6d81056aa5c0a4f04764fec6bb7bda",
        kind="embedder",
        family="qwen3_vl_embed",
        licence="Apache-2.0",
        commercial=True,
        parameters=2_127_532_032,
        dimensions=(256, 512, 1024, 2048),
        modalities=_VL,
        max_input_tiles=None,
        max_length=dict.fromkeys(_VL, 8192),
        verified=True,
        instruction=_QWEN_SEARCH,
        note=_QWEN_EMBED_NOTE,
    ),
    ModelSpec(
        id="Qwen3-VL-Embedding-8B",
        repo="Qwen/Qwen3-VL-Embedding-8B",
        revision="2c4565515e0f265c6511776e7193b22c0968ddc7",
        kind="embedder",
        family="qwen3_vl_embed",
        licence="Apache-2.0",
        commercial=True,
        parameters=8_144_793_840,
        dimensions=(256, 512, 1024, 2048, 4096),
        modalities=_VL,
        max_input_tiles=None,
        max_length=dict.fromkeys(_VL, 8192),
        verified=True,
        instruction=_QWEN_SEARCH,
        note=_QWEN_EMBED_NOTE,
    ),
    ModelSpec(
        id="Qwen3-VL-Reranker-2B",
        repo=None,
        revision=None,
        kind="reranker",
        family="qwen3_vl_rerank",
        licence="Apache-2.0",
        commercial=True,
        parameters=2_127_532_032,
        dimensions=(),
        modalities=_VL,
        max_input_tiles=None,
        max_length=dict.fromkeys(_VL, 10240),
        verified=True,
        note=f"Qwen/Qwen3-VL-Reranker-2B: {_QWEN_RERANK_NOTE}",
    ),
    ModelSpec(
        id="Qwen3-VL-Reranker-8B",
        repo=None,
        revision=None,
        kind="reranker",
        family="qwen3_vl_rerank",
        licence="Apache-2.0",
        commercial=True,
        parameters=8_767_123_696,
        dimensions=(),
        modalities=_VL,
        max_input_tiles=None,
        max_length=dict.fromkeys(_VL, 10240),
        verified=True,
        note=f"Qwen/Qwen3-VL-Reranker-8B: {_QWEN_RERANK_NOTE}",
    ),
    ModelSpec(
        id="jina-reranker-m0",
        repo="jinaai/jina-reranker-m0",
        revision="94bfe0aeb2d4dd7978362699cddd5893d4e0adc8",
        kind="reranker",
        family="jina_reranker_m0",
        licence="CC-BY-NC-4.0",
        commercial=False,
        parameters=2_444_721_665,
        dimensions=(),
        modalities=("text", "image"),
        max_input_tiles=None,
        max_length={"image": 10240, "text": 10240},
        verified=True,
        note="reads one modality: of a passage with image and text the image; reads images as queries too",
    ),
    ModelSpec(
        id="MonoQwen2-VL-v0.1",
        repo=None,
        revision=None,
        kind="reranker",
        family="monoqwen2_vl",
        licence="Apache-2.0",
        commercial=True,
        parameters=2_208_985_600,
        dimensions=(),
        modalities=("image",),
        max_input_tiles=None,
        max_length={"image": 32768},
        verified=True,
        note="lightonai/MonoQwen2-VL-v0.1 on the model hub, of which no revision is confirmed; reads images only",
    ),
    ModelSpec(
        id="starter-embed-vl",
        repo=None,
        revision=None,
        kind="embedder",
        family="llama_nemotron_embed_vl",
        licence="Apache-2.0",
        commercial=True,
        parameters=15_718_080,
        dimensions=(512, 1024),
        modalities=_VL,
        max_input_tiles=6,
        max_length=_VL_LENGTHS,
        verified=False,
        starter=True,
        note=_STARTER,
    ),
    ModelSpec(
        id="starter-rerank-vl",
        repo=None,
        revision=None,
        kind="reranker",
        family="llama_nemotron_rerank_vl",
        licence="Apache-2.0",
        commercial=True,
        parameters=7_187_904,
        dimensions=(),
        modalities=_VL,
        max_input_tiles=6,
        max_length=_VL_LENGTHS,
        verified=False,
        starter=True,
        note=_STARTER,
    ),
    ModelSpec(
        id="starter-colembed",
        repo=None,
        revision=None,
        kind="multivector_embedder",
        family="llama_nemotron_colembed_vl",
        licence="Apache-2.0",
        commercial=True,
        parameters=5_560_896,
        dimensions=(384,),
        modalities=_VL,
        max_input_tiles=6,
        max_length=_VL_LENGTHS,
        verified=False,
        starter=True,
        page_vectors=(6 + 1) * _TOKENS_PER_TILE,
        note=_STARTER,
    ),
)


OLDER_NAMES: Mapping[str, str] = {
    "llama-3.2-nv-rerankqa-1b-v2": "llama-nemotron-rerank-1b-v2",
}
"""Names under which the same weights were known before -> their rows."""

SUCCESSORS: Mapping[str, str] = {
    "NV-Embed-QA": "llama-nemotron-embed-1b-v2",
    "nv-embedqa-e5-v5": "llama-nemotron-embed-1b-v2",
    "nv-embedqa-mistral-7b-v2": "llama-nemotron-embed-1b-v2",
    "nv-embed-v1": "llama-nemotron-embed-1b-v2",
    "llama-3.2-nv-embedqa-1b-v1": "llama-nemotron-embed-1b-v2",
    "llama-3.2-nemoretriever-300m-embed-v1": "llama-nemotron-embed-1b-v2",
    "llama-3.2-nemoretriever-300m-embed-v2": "llama-nemotron-embed-1b-v2",
    "nv-rerank-qa-mistral-4b:1": "llama-nemotron-rerank-1b-v2",
    "nv-rerankqa-mistral-4b-v3": "llama-nemotron-rerank-1b-v2",
    "llama-3.2-nv-rerankqa-1b-v1": "llama-nemotron-rerank-1b-v2",
    "llama-3.2-nemoretriever-500m-rerank-v2": "llama-nemotron-rerank-1b-v2",
    "llama-nemoretriever-colembed-1b-v1": "llama-nemotron-colembed-vl-3b-v2",
    "llama-nemoretriever-colembed-3b-v1": "llama-nemotron-colembed-vl-3b-v2",
}
"""Models of NVIDIA's services and hub that are not supported -> the row that takes their place, with other weights."""

_OWNER = "nvidia/"


def find(name: str, *kinds: Kind) -> ModelSpec:
    """Look a model up by its exact catalog id, hub repository, or an older name of the same weights.

    Args:
        name: for example ``llama-nemotron-embed-vl-1b-v2`` or ``nvidia/llama-nemotron-embed-vl-1b-v2``, as NVIDIA's
            services call it too.
        kinds: what the message of the error may offer; all if none is given.

    Raises:
        UnknownModelError: no row has that name; the message names what takes its place, or the nearest ones.
    """
    short = name.removeprefix(_OWNER)
    for spec in CATALOG:
        if name in (spec.id, spec.repo) or (OLDER_NAMES.get(short, short) == spec.id and not spec.starter):
            return spec
    raise UnknownModelError(f"no model named {name!r}; {_advice(short, kinds)}")


def _advice(short: str, kinds: Sequence[Kind]) -> str:
    """What to give instead of a name that is not known."""
    successor = SUCCESSORS.get(short)
    if successor is not None:
        ranks = any(spec.id == successor and spec.kind == "reranker" for spec in CATALOG)
        unlike = "scores" if ranks else "vectors"
        return f"it is not supported, {successor} takes its place; {unlike} of the two cannot be compared"
    offered = [spec.id for spec in CATALOG if not kinds or spec.kind in kinds]
    near = difflib.get_close_matches(short.lower(), offered, n=3, cutoff=0.5)
    if near:
        return f"the nearest: {', '.join(near)}; or give a local folder with a config.json"
    return f"give a local folder with a config.json, or one of: {', '.join(offered)}"
