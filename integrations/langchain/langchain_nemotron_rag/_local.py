"""What every component that holds a local model has in common: its settings, and loading on first use.

It knows neither embedding nor reranking.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator

from langchain_nemotron_rag._convert import IMAGE_KEY
from nemotron_rag.access import ImageAccess

__all__ = ["LocalModel"]

T = TypeVar("T")

_loading = threading.Lock()  # of the module, not of an instance: instances are pickled


def _paths(names: Sequence[str | Path]) -> tuple[Path, ...]:
    return tuple(Path(name) for name in names)


class LocalModel(BaseModel):
    """Settings of a component over a local model, and the model itself once it is loaded.

    Components with equal settings share one set of weights. Copies and pickles carry the settings and load again;
    a model object that was passed in is shared with copies, and pickled if it can be.
    """

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, arbitrary_types_allowed=True, protected_namespaces=()
    )

    model: Any
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``; None takes the best one there is."""
    dtype: str | None = None
    """``float32``, ``bfloat16`` or ``float16``; None takes what suits the device."""
    revision: str | None = None
    """Of the hub repository, instead of the pinned one."""
    max_input_tiles: int | None = Field(default=None, ge=1)
    """Tiles a picture is cut into at most, thumbnail not counted; None for the checkpoint's own number."""
    max_length: int | dict[str, int] | None = None
    """Most tokens of a passage: one number, or numbers by ``text``, ``image``, ``image_text`` and ``query``."""
    image_key: str = Field(default=IMAGE_KEY, min_length=1)
    """Where in a document's metadata its picture is."""
    image_roots: Annotated[Sequence[str | Path], AfterValidator(_paths)] = ()
    """Folders whose files may be opened because a document names them."""
    image_hosts: Annotated[Sequence[str], AfterValidator(tuple)] = ()
    """Hosts that may be asked for pictures by http or https because a document names them."""

    _load_settings: ClassVar[tuple[str, ...]] = ("device", "dtype", "revision", "max_input_tiles", "max_length")
    _held: tuple[dict[str, Any], Any] | None = PrivateAttr(default=None)

    # Validators of fields, not of the model: a refused assignment must leave the old value.
    @field_validator("model")
    @classmethod
    def _model_fits_settings(cls, model: Any, info: ValidationInfo) -> Any:
        given = [name for name in cls._load_settings if info.data.get(name) is not None]
        if given and not isinstance(model, str | os.PathLike):
            raise ValueError(f"{', '.join(given)} cannot change a loaded model; unset it, or give the model's name")
        return model

    @field_validator("device", "dtype", "revision", "max_input_tiles", "max_length", "dimensions", check_fields=False)
    @classmethod
    def _setting_fits_model(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and not isinstance(info.data.get("model", ""), str | os.PathLike):
            raise ValueError(f"{info.field_name} cannot change a loaded model; leave it out, or give the model's name")
        return value

    @property
    def _is_named(self) -> bool:
        return isinstance(self.model, str | os.PathLike)

    @property
    def _model_name(self) -> str:
        return os.fspath(self.model) if self._is_named else str(self.model.name)

    @property
    def _access(self) -> ImageAccess:
        return ImageAccess(roots=self.image_roots, hosts=self.image_hosts)

    def close(self) -> None:
        """Free the model if this component loaded it; the next call loads it again."""
        with _loading:
            held, self._held = self._held, None
        if held is not None:
            held[1].close()

    def _load(self, loader: Callable[..., T]) -> T:
        if not self._is_named:
            return cast("T", self.model)
        settings = self.model_dump(include={"model", *self._load_settings})
        held = self._held
        if held is not None and held[0] == settings:
            return cast("T", held[1])
        with _loading:
            if self._held is None or self._held[0] != settings:
                options = {name: settings[name] for name in self._load_settings}
                self._held = (settings, loader(self.model, **options))
            return cast("T", self._held[1])

    def __copy__(self) -> Self:
        copy = super().__copy__()
        copy._held = None  # closing the one must not close the other
        return copy

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo[id(self.model)] = self.model  # weights are shared, never copied
        return BaseModel.__deepcopy__(self.__copy__(), memo)

    def __getstate__(self) -> dict[Any, Any]:
        return BaseModel.__getstate__(self.__copy__())
