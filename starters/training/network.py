"""Everything that training uses of nemotron_rag beyond its public names: the network it fills, and its tile grid.

These names may change without notice. No other module here imports one; a test holds them to that.
"""

from nemotron_rag.models._llama.config import read_vl_config
from nemotron_rag.models._llama.network import LlamaNemotronVL
from nemotron_rag.models._llama.tiling import choose_grid
from nemotron_rag.runtime.checkpoint import read_json

__all__ = ["LlamaNemotronVL", "choose_grid", "read_json", "read_vl_config"]
