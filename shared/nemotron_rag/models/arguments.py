"""Arguments that people bring along from other packages' classes: which mean nothing here, and what replaces others."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Collection, Mapping
from typing import Any

from nemotron_rag.errors import InputError
from nemotron_rag.models.endpoints import is_remote
from nemotron_rag.remote.endpoint import Endpoint

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


_AT_SERVER = {
    "api_key": "api_key",
    "nvidia_api_key": "api_key",
    "default_headers": "headers",
    "extra_headers": "headers",
    "timeout": "timeout",
    "max_batch_size": "batch_size",
    "truncate": "truncate",
}
"""Arguments of NVIDIA's hosted classes that are options of `Endpoint`."""

_NOT_AT_SERVER = {
    "http_client": "connections are made here, see the options of endpoint=",
    "async_http_client": "connections are made here, see the options of endpoint=",
    "usage_telemetry_enabled": "nothing is reported to anybody",
    "max_retries": "endpoint={'patience': ...} says for how many seconds requests are tried again",
    "model_type": "queries and passages have methods of their own",
}
"""The others, and what holds instead."""


def without_hosted(name: str, fields: Mapping[str, Any], *, model: object = None) -> dict[str, Any]:
    """The fields of a component in our own words, without the arguments of NVIDIA's hosted classes.

    With a ``base_url`` and a model that is named, those that are about requests become options of ``endpoint``.
    Otherwise they mean nothing, and are named in a log line.

    Args:
        name: of the component.
        fields: that were given.
        model: of the component; None for components without one.

    Raises:
        InputError: an option of the endpoint is impossible.

    Example:
        >>> given = {"base_url": "http://localhost:8000/v1", "api_key": "t0ps3cret", "max_batch_size": 8}
        >>> without_hosted("NemotronRerank", given, model="nvidia/llama-nemotron-rerank-vl-1b-v2")
        {'base_url': 'http://localhost:8000/v1', 'endpoint': Endpoint(batch_size=8)}
    """
    if isinstance(model, str | os.PathLike) and is_remote(model, fields):
        return _at_server(name, fields)
    for hosted in _HOSTED.keys() & fields.keys():
        if (hosted, fields[hosted]) != ("truncate", "END"):  # which is what is done
            _log.warning("%s has no use for %s: %s; leave it out", name, hosted, _HOSTED[hosted])
    return {key: value for key, value in fields.items() if key not in _HOSTED}


def _at_server(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    if fields.get("verify_ssl", True) is not True:
        raise InputError(f"{name} always checks certificates; leave verify_ssl out, and set SSL_CERT_FILE for your own")
    for hosted in _NOT_AT_SERVER.keys() & fields.keys():
        _log.warning("%s has no use for %s: %s; leave it out", name, hosted, _NOT_AT_SERVER[hosted])
    options = {_AT_SERVER[key]: value for key, value in fields.items() if key in _AT_SERVER and value not in (None, {})}
    taken = {*_AT_SERVER, *_NOT_AT_SERVER, "verify_ssl"}
    kept = {key: value for key, value in fields.items() if key not in taken}
    if options or kept.get("endpoint") is not None:
        kept["endpoint"] = Endpoint.of(kept.get("endpoint")).with_options(**options)
    return kept


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
