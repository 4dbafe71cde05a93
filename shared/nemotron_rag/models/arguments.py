"""Arguments that people bring along from other packages' classes: which mean nothing here, and what replaces others."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping
from typing import Any

from nemotron_rag.errors import InputError

__all__ = ["check_names", "without_hosted"]

_log = logging.getLogger("nemotron_rag")

_HOSTED = {
    "base_url": "the model runs in this process, no server is asked",
    "api_key": "the model runs in this process, no key is needed",
    "nvidia_api_key": "the model runs in this process, no key is needed",
    "default_headers": "the model runs in this process, nothing is sent",
    "extra_headers": "the model runs in this process, nothing is sent",
    "http_client": "the model runs in this process, nothing is sent",
    "async_http_client": "the model runs in this process, nothing is sent",
    "timeout": "the model runs in this process, nothing is sent",
    "max_retries": "the model runs in this process, nothing is sent",
    "usage_telemetry_enabled": "nothing is reported to anybody",
    "max_batch_size": "batches are cut to what the device has room for",
    "truncate": "texts are cut at their end; max_length= says where",
    "model_type": "queries and passages have methods of their own",
}
"""Arguments of NVIDIA's hosted classes that mean nothing here, and why."""

_REPLACED = {
    "cache_folder": "weights are in the hub's cache; set the environment variable HF_HOME",
    "cross_encoder_kwargs": "give device=, dtype= or max_length=",
    "model_kwargs": "give device=, dtype= or max_length=",
    "encode_kwargs": "vectors always have length 1; give device=, dtype= or max_length=",
    "tokenizer_name": "the checkpoint brings its own; leave it out",
    "tokenizer": "the checkpoint brings its own; leave it out",
    "trust_remote_code": "no code of a checkpoint is run; leave it out",
    "use_fp16": "give dtype='float16'",
    "torch_dtype": "give dtype=",
    "query_instruction": "prompts are the model's own; give instruction= to models that take one",
    "text_instruction": "prompts are the model's own; give instruction= to models that take one",
    "pooling": "pooling is the model's own; leave it out",
    "normalize": "vectors always have length 1; leave it out",
    "top_k": "give top_n= to a reranker, similarity_top_k= or k= to a retriever",
    "batch_size": "batches are cut to what the device has room for; leave it out",
}
"""Arguments of other classes for local models, and what to write in their place."""


def without_hosted(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a component without the arguments of NVIDIA's hosted classes, which are named in a log line."""
    for hosted in _HOSTED.keys() & fields.keys():
        if (hosted, fields[hosted]) != ("truncate", "END"):  # which is what is done
            _log.warning("%s has no use for %s: %s; leave it out", name, hosted, _HOSTED[hosted])
    return {key: value for key, value in fields.items() if key not in _HOSTED}


def check_names(name: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse arguments that a component does not have, and say what to write instead.

    Args:
        name: of the component.
        given: its arguments.
        known: those that it has.

    Raises:
        InputError: there is no such argument.

    Example:
        >>> from nemotron_rag.errors import InputError
        >>> try:
        ...     check_names("NemotronRerank", {"use_fp16": True}, ["top_n"])
        ... except InputError as error:
        ...     print(error)
        NemotronRerank has no argument use_fp16; give dtype='float16'
    """
    for argument in given:
        if argument not in known:
            nearest = difflib.get_close_matches(argument, sorted(known), n=3) or sorted(known)
            replacement = _REPLACED.get(argument) or f"give one of: {', '.join(nearest)}"
            raise InputError(f"{name} has no argument {argument}; {replacement}")
