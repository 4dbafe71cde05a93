"""What the components have in common: the name they are stored under, and how their model is loaded."""

from __future__ import annotations

from typing import Any, Self

from llama_index.core.bridge.pydantic import BaseModel, Field, PrivateAttr, field_serializer, field_validator
from llama_index.core.callbacks import CallbackManager

from nemotron_rag.models.arguments import check_names, without_hosted
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.models.load import LoadOptions
from nemotron_rag.remote import Endpoint

__all__ = ["Component", "ModelFields", "ModelSettings"]


class ModelSettings(LoadOptions, total=False):
    """Keyword arguments of components that load a model: `LoadOptions`, and what it has in common besides."""

    identity: dict[str, Any] | None
    callback_manager: CallbackManager


class Component(BaseModel):
    """A component that LlamaIndex stores under the name of its class.

    Arguments of NVIDIA's hosted classes that mean nothing here are left out, with a warning; others that it does not
    have are refused by `nemotron_rag.models.arguments`, which knows what replaces them.
    """

    def __init__(self, **fields: Any) -> None:
        cls, known = type(self), self._arguments()
        hosted = without_hosted(cls.__name__, {key: fields[key] for key in fields if key not in known})
        check_names(cls.__name__, hosted, known)
        super().__init__(**{key: value for key, value in fields.items() if key in known})

    @classmethod
    def _arguments(cls) -> set[str]:
        return {name for field, info in cls.model_fields.items() for name in (field, info.alias) if name}

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores it."""
        return cls.__name__


class ModelFields(Component):
    """How a model is loaded: the fields of `nemotron_rag.models.load.LoadOptions`, which explains them.

    They are frozen, because a loaded model would not follow. None is the model's own default. What is stored of an
    `endpoint` has neither key nor headers.

    Args:
        identity: of a model that was given loaded; what is later loaded under its name must be the same.
    """

    device: str | None = Field(default=None, frozen=True)
    dtype: str | None = Field(default=None, frozen=True)
    revision: str | None = Field(default=None, frozen=True)
    max_input_tiles: int | None = Field(default=None, frozen=True)
    use_thumbnail: bool | None = Field(default=None, frozen=True)
    max_length: int | dict[str, int] | None = Field(default=None, frozen=True)
    max_image_tokens: int | None = Field(default=None, frozen=True)
    instruction: str | None = Field(default=None, frozen=True)
    compile: bool | None = Field(default=None, frozen=True)
    base_url: str | None = Field(default=None, frozen=True)
    dialect: str | None = Field(default=None, frozen=True)
    endpoint: Any = Field(default=None, frozen=True)
    identity: dict[str, Any] | None = Field(default=None, frozen=True)
    _model: LazyModel[Any] = PrivateAttr()

    @field_validator("endpoint")
    @classmethod
    def _hide_key(cls, endpoint: Any) -> Endpoint | None:
        return None if endpoint is None else Endpoint.of(endpoint)

    @field_serializer("endpoint")
    def _without_key(self, endpoint: Endpoint | None) -> dict[str, Any] | None:
        """Key and headers are left out; the key then comes from the environment."""
        return None if endpoint is None else endpoint.to_json()

    def load(self) -> Self:
        """Load the model now, where the first call would wait for it; returns the component."""
        self._model.get()
        return self

    def close(self) -> None:
        """Free the weights loaded here; the next use loads them again. A model that was given stays open."""
        self._model.close()
