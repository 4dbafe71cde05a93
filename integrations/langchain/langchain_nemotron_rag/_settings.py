"""What components over local models have in common: how a model is loaded, and which images may be opened."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, PrivateAttr

from langchain_nemotron_rag._documents import IMAGE_KEY
from nemotron_rag import LoadOptions
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.models.adopted import adopt
from nemotron_rag.models.arguments import without_hosted
from nemotron_rag.models.lazy import LazyModel, Lock
from nemotron_rag.remote import Endpoint
from nemotron_rag.types import Kind

T = TypeVar("T")
_log = logging.getLogger("nemotron_rag")


def _own(value: Any) -> Any:
    """A value that is checked where models are loaded; of a dict a copy, so that the caller's stays the caller's."""
    return dict(value) if isinstance(value, Mapping) else value


def _endpoint(value: Any) -> Endpoint | None:
    """In a form that hides its key from then on."""
    return None if value is None else Endpoint.of(value)


def _paths(names: Sequence[str | Path]) -> tuple[Path, ...]:
    return tuple(Path(name) for name in names)


Unchecked = Annotated[T, PlainValidator(_own)]
"""A field that pydantic lets through, because nemotron_rag checks it and words the error."""


@dataclass(slots=True)
class _Opened:
    """What a component has opened, and under which settings; a copy or pickle of this is empty."""

    lock: Lock = field(default_factory=Lock, compare=False)
    items: dict[str, tuple[Any, Any]] = field(default_factory=dict, compare=False)

    def __reduce__(self) -> tuple[type[_Opened], tuple[()]]:
        return _Opened, ()


class Component(BaseModel):
    """Fields that are also checked together, when the object is made and when one is assigned; and what they open.

    Among them is how models that are named are loaded; see `nemotron_rag.LoadOptions`.

    Errors of that check are raised as they are, not inside a `pydantic.ValidationError`. A refused assignment leaves
    the old value. Copies and pickles hold the fields and open again what they name.
    """

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, arbitrary_types_allowed=True, protected_namespaces=()
    )

    device: Unchecked[str | None] = None
    dtype: Unchecked[str | None] = None
    revision: Unchecked[str | None] = None
    max_input_tiles: Unchecked[int | None] = None
    use_thumbnail: Unchecked[bool | None] = None
    max_length: Unchecked[int | dict[str, int] | None] = None
    max_image_tokens: Unchecked[int | None] = None
    instruction: Unchecked[str | None] = None
    compile: Unchecked[bool | None] = None
    base_url: Unchecked[str | None] = None
    dialect: Unchecked[str | None] = None
    endpoint: Annotated[Any, PlainValidator(_endpoint)] = None

    _opened: _Opened = PrivateAttr(default_factory=_Opened)

    _shared: ClassVar[tuple[str, ...]]
    """Fields whose values deep copies share."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self._check()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self).model_fields:
            super().__setattr__(name, value)
            return
        old, was_set = getattr(self, name), set(self.model_fields_set)
        super().__setattr__(name, value)
        try:
            self._check()
        except BaseException:
            self.__dict__[name] = old
            self.__pydantic_fields_set__ = was_set
            raise

    def __copy__(self) -> Self:
        copy = super().__copy__()
        copy._opened = _Opened()  # closing the one must not close the other
        return copy

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo |= {id(value): value for value in (getattr(self, name) for name in self._shared)}
        return super().__deepcopy__(memo)

    def close(self) -> None:
        """Close the index that was opened here and free the models that were loaded; the next use does both again."""
        with self._opened.lock:
            opened = [item for _, item in self._opened.items.values()]
            self._opened.items.clear()
        for item in opened:
            item.close()

    def _check(self) -> None:
        """Raise what is wrong with the fields."""

    def _load_options(self) -> LoadOptions:
        """The options that are set."""
        names = [name for name in LoadOptions.__annotations__ if name in type(self).model_fields]
        given = {name: _own(getattr(self, name)) for name in names if getattr(self, name) is not None}
        return cast("LoadOptions", given)

    def _open_once(self, name: str, settings: Any, make: Callable[[], T]) -> T:
        """What was made under the present settings, which may have been changed since the last call."""
        with self._opened.lock:
            old = self._opened.items.get(name)
            if old is not None and old[0] == settings:
                return cast("T", old[1])
            if old is not None:
                del self._opened.items[name]
                old[1].close()
            made = make()
            self._opened.items[name] = settings, made
            return made


class ModelFields(Component):
    """The settings of a component over one model, and that model, loaded at first use.

    Components of equal settings share one set of weights. Copies and pickles carry the settings and load again; a model
    object that was given is shared with copies, and pickled if it can be. Arguments of NVIDIA's hosted classes that
    mean nothing here (``api_key``, ``max_batch_size``, ...) are left out, with a warning; with `base_url` and the name
    of a model they go into `endpoint`.
    """

    model: Any
    image_key: str = Field(default=IMAGE_KEY, min_length=1)
    image_roots: Annotated[Sequence[str | Path], AfterValidator(_paths)] = ()
    image_hosts: Annotated[Sequence[str], AfterValidator(tuple)] = ()

    _kinds: ClassVar[tuple[Kind, ...]]
    _shared = ("model",)

    def __init__(self, **fields: Any) -> None:
        super().__init__(**without_hosted(type(self).__name__, fields, model=fields.get("model", "")))

    def _check(self) -> None:
        LazyModel(self.model, *self._kinds, **self._load_options())

    def _lazy(self) -> LazyModel[Any]:
        model, options = self.model, self._load_options()
        return self._open_once("model", (model, options), lambda: LazyModel(model, *self._kinds, **options))

    @property
    def model_name(self) -> str:
        """Of the model: as it was named, or as it names itself."""
        return os.fspath(self.model) if isinstance(self.model, str | os.PathLike) else str(adopt(self.model).name)

    @property
    def _access(self) -> ImageAccess:
        return ImageAccess(roots=self.image_roots, hosts=self.image_hosts)
