"""Prompts of any text: cut to the limit, images whole, and user text never read as control tokens."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_rag.errors import TokenLimitError
from nemotron_rag.models._llama.tokenizer import Prompt, PromptTokenizer
from nemotron_rag.models._qwen.tokenizer import Control, Image, QwenTokenizer

DATA = Path(__file__).parents[1] / "data" / "reference"
LLAMA, QWEN = DATA / "embed_vl_open_1", DATA / "jina_m0_open_1"
LLAMA_CONTEXT, QWEN_CONTEXT = 609, 612

literals = st.sampled_from(["<IMG_CONTEXT>", "<img>", "</img>", "<|end_of_text|>", "<|image_pad|>", "<|im_end|>"])
words = st.sampled_from(["tornado warning", " the ", "query:", "\n", "naïve", "文字", "🌪", "\ud800"])
texts = st.lists(literals | words | st.text(max_size=8), max_size=6).map("".join)
limits = st.integers(1, 60)


@cache
def _llama() -> PromptTokenizer:
    return PromptTokenizer(LLAMA, image_context_id=LLAMA_CONTEXT)


@cache
def _qwen() -> QwenTokenizer:
    return QwenTokenizer(QWEN, image_token_id=QWEN_CONTEXT)


@cache
def _control_ids(folder: Path) -> frozenset[int]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return frozenset(token["id"] for token in tokenizer["added_tokens"])


def _controls(folder: Path, ids: list[int]) -> list[int]:
    return [token for token in ids if token in _control_ids(folder)]


@given(texts, st.integers(0, 20), texts, limits)
def test_a_cut_llama_prompt_begins_like_the_uncut_one(before, image_tokens, after, max_length):
    prompt = Prompt(before, image_tokens, after if image_tokens else "")
    uncut = _llama().encode(prompt, max_length=10_000, index=0)
    needed = len(_llama().encode(Prompt(before, image_tokens), max_length=10_000, index=0)) if image_tokens else 0
    if needed > max_length:
        with pytest.raises(TokenLimitError, match=rf"passage 3 needs {needed} tokens .* allows {max_length};"):
            _llama().encode(prompt, max_length=max_length, index=3)
        return
    cut = _llama().encode(prompt, max_length=max_length, index=3)
    assert cut == uncut[:max_length]
    assert cut.count(LLAMA_CONTEXT) == image_tokens


@given(texts, st.integers(0, 20), texts)
def test_llama_control_tokens_are_the_start_and_one_image_block(before, image_tokens, after):
    ids = _llama().encode(Prompt(before, image_tokens, after if image_tokens else ""), max_length=10_000, index=0)
    controls = _controls(LLAMA, ids)
    assert controls[0] == ids[0]
    assert len(controls) == 1 + (image_tokens + 2 if image_tokens else 0)
    if image_tokens:
        first = ids.index(LLAMA_CONTEXT)
        assert ids[first - 1 : first + image_tokens + 1] == controls[1:]
        assert ids[first : first + image_tokens] == [LLAMA_CONTEXT] * image_tokens


@given(st.sampled_from(["", "query: ", "passage: "]), texts, limits)
def test_llama_spans_follow_the_text_from_left_to_right(prefix, text, max_length):
    prompt = Prompt(prefix + text)
    spans = _llama().spans(prompt, text, max_length=max_length)
    assert spans.shape == (len(_llama().encode(prompt, max_length=max_length, index=0)), 2)
    assert (spans[:, 0] <= spans[:, 1]).all()
    assert (spans >= 0).all()
    assert (spans <= len(text)).all()
    assert (spans[1:] >= spans[:-1]).all()


@given(texts, st.tuples(st.integers(1, 4), st.integers(1, 4)) | st.none(), texts, limits)
def test_a_cut_qwen_prompt_keeps_its_images_and_its_ending(before, grid, after, max_length):
    image = [Image(grid)] if grid else []
    parts = [Control("<|im_start|>"), before, *image, after]
    ending = [Control("<|im_end|>"), "\n"]
    uncut = _qwen().encode(parts, ending=[], max_length=10_000, index=0)
    last = _qwen().encode(ending, ending=[], max_length=10_000, index=0)
    held = len(_qwen().encode(parts[:3], ending=[], max_length=10_000, index=0)) if grid else 1
    if held + len(last) > max_length:
        with pytest.raises(TokenLimitError, match=rf"passage 3 needs at least {held + len(last)} tokens"):
            _qwen().encode(parts, ending=ending, max_length=max_length, index=3)
        return
    cut = _qwen().encode(parts, ending=ending, max_length=max_length, index=3)
    assert cut == uncut[: max_length - len(last)] + last
    assert cut.count(QWEN_CONTEXT) == (grid[0] * grid[1] if grid else 0)


@given(texts, texts)
def test_qwen_text_has_no_control_tokens(before, after):
    ids = _qwen().encode([before, Image((2, 3)), after], ending=[], max_length=10_000, index=0)
    first = ids.index(QWEN_CONTEXT)
    assert ids[first : first + 6] == [QWEN_CONTEXT] * 6
    assert _controls(QWEN, ids) == ids[first - 1 : first + 7]


@given(texts, st.integers(1, 20))
def test_a_text_cut_by_tokens_is_its_beginning(text, max_tokens):
    cut = _qwen().cut(text, max_tokens)
    plain = text.encode("utf-8", "replace").decode("utf-8")
    assert plain.startswith(cut.encode("utf-8", "replace").decode("utf-8"))
    ids, cut_ids = (_qwen().encode([one], ending=[], max_length=10_000, index=0) for one in (text, cut))
    if len(ids) <= max_tokens:
        assert cut == text
    else:
        assert cut_ids[: max_tokens - 1] == ids[: max_tokens - 1]
        assert len(cut) < len(text) or len(cut_ids) == len(ids)
