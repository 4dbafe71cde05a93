"""Download a pinned checkpoint from the model hub: weights, JSON and chat templates only, never Python."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from nemotron_rag.errors import CheckpointError

__all__ = ["download"]

_FILES = ["*.json", "*.jinja", "*.safetensors"]


def download(repo: str, *, revision: str, only_cached: bool = False) -> Path:
    """Return the local folder of a repository at a revision, downloaded unless it is in the cache.

    Args:
        repo: ``owner/name``.
        revision: a commit, branch or tag.
        only_cached: use the local cache only, without any network access.

    Raises:
        CheckpointError: the hub cannot be reached, and there is no cached copy.
    """
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=_FILES, local_files_only=only_cached))
    except Exception as error:  # network, authentication, disk and cache errors share no base class
        if only_cached:
            raise CheckpointError(
                f"{repo} at revision {revision[:8]} is not in the cache of the model hub; "
                "allow its download, or give a local folder with its files"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"cannot get {repo} at revision {revision[:8]} from the model hub ({reason}); "
            "give a local folder with its files, or try starter-embed-vl and starter-rerank-vl of the extra starters"
        ) from error
