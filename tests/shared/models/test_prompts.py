"""Prompts and token ids of both VL families: the published table exactly, and where we differ on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemotron_rag.errors import CheckpointError, TokenLimitError
from nemotron_rag.models._llama.prompts import embed_prompt, rerank_prompt
from nemotron_rag.models._llama.tokenizer import Prompt, PromptTokenizer

DATA = Path(__file__).parents[2] / "data" / "reference"
TABLE = json.loads((DATA / "prompt_table.json").read_text())
CONTEXT = 609
SPECIAL = ("<IMG_CONTEXT>", "</img>", "<|end_of_text|>")


def _tokenizer(case: str) -> PromptTokenizer:
    return PromptTokenizer(DATA / case, image_context_id=CONTEXT)


def _image_tokens(row: dict) -> int:
    """The table's images have tiles of 4 tokens: 64x64 is one, 256x64 is two and a thumbnail."""
    image = row.get("image") or ""
    return 12 if image.startswith("256x64") else 4 if image else 0


def _prompt(row: dict) -> Prompt:
    tokens = _image_tokens(row)
    if "question" in row:
        return rerank_prompt(row["question"], row["doc_text"], template=row["prompt_template"], image_tokens=tokens)
    note = row.get("note", "")
    prefix = "" if row["api"] == "__call__ text" or 'prefix ""' in note else None
    default = "query:" if row["api"] == "process_queries" else "passage:"
    return embed_prompt(default if prefix is None else prefix, row["text"], image_tokens=tokens)


def _rendered(prompt: Prompt) -> str:
    image = f"<img>{'<IMG_CONTEXT>' * prompt.image_tokens}</img>" if prompt.image_tokens else ""
    return prompt.before + image + prompt.after


def _user_text(row: dict) -> str:
    return row["text"] if "text" in row else row["question"] + row["doc_text"]


def _is_misread(row: dict) -> bool:
    """Rows whose user text the reference takes for control tokens, or deletes a placeholder from."""
    return any(token in _user_text(row) for token in SPECIAL) or _rendered(_prompt(row)) != row["prompt"]


ROWS = [
    pytest.param(case, row, id=f"{case}-{i}")
    for case, rows in (("embed_vl_open_1", TABLE["embed_vl"]), ("rerank_vl_open_1", TABLE["rerank_vl"]))
    for i, row in enumerate(rows)
]


@pytest.mark.parametrize(("case", "row"), ROWS)
def test_prompt_table(case, row):
    prompt = _prompt(row)
    found = _tokenizer(case).encode(prompt, max_length=row["max_length"], index=0)
    expected = row["token_ids_after_truncation"]
    if not _is_misread(row):
        assert _rendered(prompt) == row["prompt"]
        assert len(found) == expected["n"]
        assert found == expected["ids"] if "ids" in expected else found[: len(expected["head"])] == expected["head"]
        return
    # On purpose: user text is kept and read as plain text, so that only our own image block holds control tokens.
    assert all(row[key] in _rendered(prompt) for key in ("text", "question", "doc_text") if key in row)
    assert found != expected.get("ids")
    assert found.count(CONTEXT) == prompt.image_tokens
    assert sum(token >= 600 for token in found) == 1 + (prompt.image_tokens + 2 if prompt.image_tokens else 0)


def test_only_rows_with_control_text_differ():
    differing = {_user_text(param.values[1]) for param in ROWS if _is_misread(param.values[1])}
    assert all("<image>" in text or any(token in text for token in SPECIAL) for text in differing)
    assert sum(_is_misread(param.values[1]) for param in ROWS) < len(ROWS) / 2


def test_image_tokens_are_never_cut():
    tokenizer = _tokenizer("embed_vl_open_1")
    prompt = embed_prompt("passage:", "some text behind the image", image_tokens=28)
    needed = len(tokenizer.encode(embed_prompt("passage:", "", image_tokens=28), max_length=1000, index=0)) - 1
    cut = tokenizer.encode(prompt, max_length=needed, index=0)
    assert len(cut) == needed
    assert cut.count(CONTEXT) == 28
    with pytest.raises(TokenLimitError, match=rf"passage 7 needs {needed} tokens .* allows {needed - 1}; raise"):
        tokenizer.encode(prompt, max_length=needed - 1, index=7)


def test_lone_surrogates_are_replaced():
    tokenizer = _tokenizer("embed_vl_open_1")
    assert tokenizer.encode(Prompt("a\ud800b"), max_length=99, index=0) == tokenizer.encode(
        Prompt("a?b"), max_length=99, index=0
    )


def test_missing_or_foreign_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read tokenizer.json"):
        PromptTokenizer(tmp_path, image_context_id=1)
    text_only = json.loads((DATA / "embed_vl_open_1" / "tokenizer.json").read_text())
    text_only["added_tokens"] = [t for t in text_only["added_tokens"] if t["content"] != "<img>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(text_only))
    with pytest.raises(CheckpointError, match="has no <img> and </img>"):
        PromptTokenizer(tmp_path, image_context_id=1)
