"""The Hugging Face Hub through huggingface_hub's own mixin; local folders work offline."""

import functools
from pathlib import Path
from typing import Any

from monosem.base.errors import MonosemError
from monosem.core.io import save_model
from monosem.core.model import SDL
from monosem.interop.api import load


@functools.cache
def hub_class() -> Any:
    """HubSDL, a ModelHubMixin around an SDL (`.model`), made when huggingface_hub is there.

    It writes monosem's own format and reads every known one; a subfolder of a repository is given as
    `subfolder`, and `input_scale` as for `load`.
    """
    try:
        from huggingface_hub import ModelHubMixin, snapshot_download
    except ImportError as error:
        raise MonosemError(f"the Hub needs huggingface_hub ({error}); pip install 'monosem[hub]'") from None

    class HubSDL(ModelHubMixin, library_name="monosem", tags=["sparse-dictionary-learning"]):
        """An SDL with from_pretrained, save_pretrained and push_to_hub."""

        def __init__(self, sdl: SDL) -> None:
            self.model = sdl

        def _save_pretrained(self, save_directory: Path) -> None:
            save_model(self.model, save_directory)

        @classmethod
        def _from_pretrained(
            cls, *, model_id: str, subfolder: str = "", input_scale: float | None = None, **options: Any
        ) -> "HubSDL":
            folder = Path(model_id)
            if not folder.is_dir():
                known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
                wanted = f"{subfolder}/*" if subfolder else None
                given = {name: options.get(name) for name in known}
                folder = Path(snapshot_download(model_id, allow_patterns=wanted, **given))  # type: ignore[arg-type]
            return cls(load(folder / subfolder, input_scale))

    return HubSDL


def from_pretrained(name: str | Path, **options: Any) -> SDL:
    """A model from a repository on the Hub or a local folder, of any known format.

    `options`: subfolder, input_scale, and those of huggingface_hub (revision, token, cache_dir, ...).
    """
    model: SDL = hub_class().from_pretrained(name, **options).model
    return model


def save_pretrained(model: SDL, folder: str | Path, **options: Any) -> None:
    """Write a folder as the Hub holds it: monosem's own format and a model card."""
    hub_class()(model).save_pretrained(folder, **options)


def push_to_hub(model: SDL, repo_id: str, **options: Any) -> str:
    """Upload a model to a repository on the Hub; the address of the commit."""
    return str(hub_class()(model).push_to_hub(repo_id, **options))
