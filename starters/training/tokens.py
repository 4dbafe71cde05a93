"""Trains the tokenizer: byte-level BPE with Llama's splitting rule over folded text.

The fold (no case, no accents, no punctuation, words joined again that were hyphenated at a line end) makes one piece
out of the many spellings of a word, which a table of 5000 pieces cannot afford to tell apart.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

__all__ = ["SPECIAL_TOKENS", "train_tokenizer", "write_tokenizer"]

SPECIAL_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<img>", "<IMG_CONTEXT>", "</img>",
)  # fmt: skip
_LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PROMPT_WORDS = "query passage question"
_LONGEST = 10240  # tokens, as in the published checkpoints


def train_tokenizer(texts: Sequence[str], *, size: int, seed: int = 0) -> Tokenizer:
    """Learn the pieces.

    Args:
        texts: to learn from.
        size: pieces, special tokens included.
        seed: of the order of the texts.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFKD(),
        normalizers.Replace(Regex(r"\p{M}"), ""),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"(?<=\p{L})-\n(?=\p{L})"), ""),
        normalizers.Prepend(" "),
        normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " "),
    ])  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_LLAMA_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    shuffled = [*texts, *[_PROMPT_WORDS] * 20_000]  # so often that each of them becomes one piece
    random.Random(seed).shuffle(shuffled)
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(shuffled, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    start = SPECIAL_TOKENS[0]
    start_id = tokenizer.token_to_id(start)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A {start}:1 $B:1", special_tokens=[(start, start_id)]
    )
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, processor: str) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` in the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False) | {"special": True}
    added = {str(tokenizer.token_to_id(token)): {"content": token, **flags} for token in SPECIAL_TOKENS}
    names = {"bos_token": SPECIAL_TOKENS[0], "eos_token": SPECIAL_TOKENS[1], "pad_token": SPECIAL_TOKENS[2]}
    settings = {
        "added_tokens_decoder": added,
        **names,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {},
        "model_input_names": ["input_ids", "attention_mask", "pixel_values"],
        "model_max_length": _LONGEST,
        "processor_class": processor,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
